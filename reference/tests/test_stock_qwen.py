"""Checkpoints of the Qwen families: what they are drawn for counts, and the goldens are transformers' own."""

import json
import random
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stock import conversations, draw, families, golden
from stock.qwen import inputs, shapes, tokens

torch.set_num_threads(1)
# Largest change of a logit that no test takes for noise: logits are about 5.
CLEAR = 0.05
REPOSITORY = Path(__file__).parents[2]


class Fixture:
    """The committed checkpoint of a family, read by transformers."""

    def __init__(self, family: str):
        self.directory = REPOSITORY / "tests/fixtures/stock" / family
        self.content = json.loads((self.directory / "cases.json").read_text())
        self.model, self.processor = families.load(family, self.directory / "checkpoint")

    def case(self, name: str) -> dict:
        return next(case for case in self.content["cases"] if case["name"] == name)

    def encode(self, messages: list[dict], **template):
        return self.processor.apply_chat_template(
            golden.for_transformers(messages, self.directory),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **template,
        )

    @torch.no_grad()
    def logits(self, encoded, **changed) -> torch.Tensor:
        """Of the last position."""
        _, rows = inputs.see(self.model, encoded)
        return self.model(input_ids=encoded["input_ids"], **rows | changed).logits[0, -1]


@cache
def fixture(family: str) -> Fixture:
    return Fixture(family)


def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_generate_says_the_same(family):
    it = fixture(family)
    for case in it.content["cases"]:
        encoded = it.encode(case["messages"], **case.get("chat_template_kwargs", {}))
        it.model.model.rope_deltas = None
        whole = it.model.generate(
            **encoded,
            max_new_tokens=golden.STEPS,
            min_new_tokens=golden.STEPS,
            do_sample=False,
            eos_token_id=None,
        )
        assert whole[0].tolist() == case["input_ids"] + case["greedy"], case["name"]


@pytest.mark.parametrize("family", shapes.FAMILIES)
@pytest.mark.parametrize("name", ["transparent", "turns"])
def test_places_matter(family, name):
    """Positions of three axes, and the tower's rotation."""
    it = fixture(family)
    encoded = it.encode(it.case(name)["messages"])
    plain = it.logits(encoded)
    one_axis = torch.arange(encoded["input_ids"].shape[1]).expand(3, 1, -1)
    assert furthest(plain, it.logits(encoded, position_ids=one_axis)) > CLEAR
    rotation = it.model.model.visual.rotary_pos_emb.inv_freq
    kept = rotation.clone()
    rotation.zero_()
    still = it.logits(encoded)
    rotation.copy_(kept)
    assert furthest(plain, still) > CLEAR
    assert furthest(plain, it.logits(encoded)) == 0


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize("name", ["transparent", "turns"])
def test_the_table_of_positions_is_read_with_its_corners(family, name):
    it = fixture(family)
    encoded = it.encode(it.case(name)["messages"])
    plain = it.logits(encoded)
    tower = it.model.model.visual
    tower.interpolation_align_corners = False
    other = it.logits(encoded)
    tower.interpolation_align_corners = True
    assert furthest(plain, other) > CLEAR


@pytest.mark.parametrize("name", ["transparent", "turns"])
def test_every_tap_matters(name):
    it = fixture("qwen3_vl")
    encoded = it.encode(it.case(name)["messages"])
    plain = it.logits(encoded)
    _, rows = inputs.see(it.model, encoded)
    features = rows["mm_encoder_outputs"]["image"]
    taps = features.deepstack_features
    # Nothing reads what the last of the decoder's layers adds to a picture's rows.
    seen = min(len(taps), it.model.config.text_config.num_hidden_layers - 1)
    assert seen >= 2
    for tap in range(seen):
        features.deepstack_features = [
            [torch.zeros_like(image) for image in images] if number == tap else images
            for number, images in enumerate(taps)
        ]
        assert furthest(plain, it.logits(encoded, **rows)) > CLEAR, tap


@pytest.mark.parametrize("name", ["transparent", "turns"])
@pytest.mark.parametrize("blocks", [[], None])
def test_windows_matter_and_blocks_that_see_all(name, blocks):
    it = fixture("qwen2_5_vl")
    encoded = it.encode(it.case(name)["messages"])
    plain = it.logits(encoded)
    tower = it.model.model.visual
    kept = tower.fullatt_block_indexes
    tower.fullatt_block_indexes = range(len(tower.blocks)) if blocks is None else blocks
    other = it.logits(encoded)
    tower.fullatt_block_indexes = kept
    assert furthest(plain, other) > CLEAR


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_what_is_told_of_a_conversation_hangs_together(tmp_path, family):
    wanted = draw.Wanted("any", families.draw(family, 8), list(conversations.makers(family)))
    draw.make(wanted, tmp_path / "it")
    content = json.loads((tmp_path / "it/cases.json").read_text())
    tensors = load_file(tmp_path / "it/cases.safetensors")
    image_id = json.loads((tmp_path / "it/checkpoint/config.json").read_text())["image_token_id"]
    for case in content["cases"]:
        name, ids = case["name"], case["input_ids"]
        rows = ids.count(image_id)
        positions = tensors[f"{name}.position_ids"]
        assert positions.shape == (3, len(ids))
        if rows:
            grids = tensors[f"{name}.image_grid_thw"]
            assert grids.prod(-1).sum() == tensors[f"{name}.pixel_values"].shape[0]
            assert (grids.prod(-1) // wanted.drawn.merge**2).sum() == rows
            assert tensors[f"{name}.image_features"].shape == (rows, wanted.drawn.hidden)
            assert grids.shape[0] == json.dumps(case["messages"]).count("images/")
        else:
            assert positions.tolist() == [list(range(len(ids)))] * 3
        assert len(case["greedy"]) == golden.STEPS and case["margin"] >= golden.MIN_MARGIN
        logits = torch.cat([tensors[f"{name}.logits"][None], tensors[f"{name}.step_logits"]])
        assert logits[:-1].argmax(-1).tolist() == case["greedy"]


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_templates_read_texts_and_lists_alike(family):
    it = fixture(family)
    texts = [("system", "Be exact."), ("user", "What is it?"), ("assistant", "A sign."), ("user", "Where?")]
    plain = [{"role": role, "content": content} for role, content in texts]
    parts = [{"role": role, "content": [conversations.text(content)]} for role, content in texts]
    rendered = it.processor.apply_chat_template(plain, add_generation_prompt=True)
    assert rendered == it.processor.apply_chat_template(parts, add_generation_prompt=True)
    assert all(content in rendered for _, content in texts)
    shown = [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, conversations.text("Which?")]}
    ]
    mark = tokens.VISION_START + tokens.IMAGE + tokens.VISION_END
    assert f"user\n{mark}{mark}Which?" in it.processor.apply_chat_template(shown)
    numbered = it.processor.apply_chat_template(shown, add_vision_id=True)
    assert f"user\nPicture 1: {mark}Picture 2: {mark}Which?" in numbered


def test_thoughts_of_earlier_turns_are_left_out_and_new_ones_asked_for():
    it = fixture("qwen3_5")
    messages = conversations.conversation("thoughts", "qwen3_5", random.Random(1)).messages
    rendered = it.processor.apply_chat_template(
        golden.for_transformers(messages, it.directory), add_generation_prompt=True
    )
    assert "Red and white" not in rendered and "<|im_start|>assistant\nIt is a sign.<|im_end|>" in rendered
    assert rendered.endswith("<|im_start|>assistant\n<think>\n")
    question = [{"role": "user", "content": "Where?"}]
    quick = it.processor.apply_chat_template(question, add_generation_prompt=True, enable_thinking=False)
    assert quick.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_everything_that_a_file_may_say_is_drawn():
    drawn = [families.draw("qwen3_vl", seed) for seed in range(20)]
    for name in ("old_files", "old_config", "shards", "hub_layout", "tied", "attention_bias"):
        assert {getattr(each, name) for each in drawn} == {True, False}, name
    assert {each.rope_spelling for each in drawn} == {"parameters", "scaling", "scaling_type"}
    assert {each.limits for each in drawn} == {"size", "pixels", "both"}
    assert {len(each.taps) for each in drawn} == {0, 1, 2, 3}
    assert {each.merge for each in drawn} == {1, 2, 3}
    assert {each.theta is None for each in drawn} == {True, False}
    assert any(each.hidden != each.heads * each.head_dim for each in drawn)
    assert all(sum(each.sections) == each.head_dim // 2 for each in drawn)


def test_everything_that_a_file_of_qwen2_5_vl_may_say_is_drawn():
    drawn = [families.draw("qwen2_5_vl", seed) for seed in range(20)]
    for name in ("old_keys", "flat_config", "old_files", "tied"):
        assert {getattr(each, name) for each in drawn} == {True, False}, name
    assert {len(each.full_blocks) for each in drawn} == {0, 1, 2}
    assert len({each.window // each.factor for each in drawn}) >= 3
    assert all(sum(each.sections) == each.head_dim // 2 and min(each.sections) > 0 for each in drawn)


def test_everything_that_a_file_of_qwen3_5_may_say_is_drawn():
    drawn = [families.draw("qwen3_5", seed) for seed in range(20)]
    for name in ("mtp", "partial_named", "old_config", "tied"):
        assert {getattr(each, name) for each in drawn} == {True, False}, name
    assert {each.interval is None for each in drawn} == {True, False}
    assert all(set(each.layer_types) == {"linear_attention", "full_attention"} for each in drawn)
    assert all(len(each.layer_types) == each.layers for each in drawn)
    assert {value_heads // key_heads for key_heads, value_heads, *_ in (each.linear for each in drawn)} == {
        1,
        2,
        3,
    }
    assert all(2 * sum(each.sections) == int(each.head_dim * each.partial) for each in drawn)
