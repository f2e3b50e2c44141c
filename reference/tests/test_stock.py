"""Checkpoints of stock families: a seed is a checkpoint, and what transformers makes of it hangs together."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stock import checkpoint, conversations, draw, families, golden, pictures, qwen, shapes, tokens, widths

torch.set_num_threads(1)


def made(directory: Path, family: str, seed: int, names: list[str]) -> Path:
    draw.make(draw.Wanted("any", shapes.draw(family, seed), names), directory)
    return directory


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_a_seed_is_a_checkpoint_and_its_goldens(tmp_path, family):
    one, again, other = (
        made(tmp_path / name, family, seed, ["dot", "two"])
        for name, seed in [("one", 5), ("again", 5), ("other", 6)]
    )
    assert draw.compare(one, again) == []
    for file in sorted(one.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (again / file.relative_to(one)).read_bytes(), file
    assert draw.compare(one, other)


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_what_is_told_of_a_conversation_hangs_together(tmp_path, family):
    directory = made(tmp_path / "it", family, 8, list(conversations.MAKERS))
    content = json.loads((directory / "cases.json").read_text())
    tensors = load_file(directory / "cases.safetensors")
    drawn = shapes.draw(family, 8)
    image_id = json.loads((directory / "checkpoint/config.json").read_text())["image_token_id"]
    for case in content["cases"]:
        shown = [
            part
            for message in case["messages"]
            if isinstance(message["content"], list)
            for part in message["content"]
        ]
        pictures_shown = sum(part["type"] == "image_url" for part in shown)
        rows = case["input_ids"].count(image_id)
        assert (pictures_shown > 0) == (rows > 0)
        if rows:
            tiles = tensors[f"{case['name']}.pixel_values"].shape[0]
            assert tiles * drawn.rows == rows == tensors[f"{case['name']}.image_features"].shape[0]
            # Every tile is whole.
            assert f"{case['name']}.pixel_attention_mask" not in tensors
        assert len(case["greedy"]) == golden.STEPS and case["margin"] >= golden.MIN_MARGIN
        logits = torch.cat([tensors[f"{case['name']}.logits"][None], tensors[f"{case['name']}.step_logits"]])
        assert logits[:-1].argmax(-1).tolist() == case["greedy"]


def test_a_changed_golden_is_found(tmp_path):
    one = made(tmp_path / "one", "smolvlm", 5, ["dot"])
    other = made(tmp_path / "other", "smolvlm", 5, ["dot"])
    content = json.loads((other / "cases.json").read_text())
    content["cases"][0]["greedy"][3] += 1
    (other / "cases.json").write_text(json.dumps(content))
    assert draw.compare(one, other) == ["dot: greedy differ"]


def test_pictures_move_the_logits(tmp_path):
    model, processor = checkpoint.load(
        "idefics3", checkpoint.write(shapes.draw("idefics3", 4), tmp_path / "checkpoint")
    )
    (tmp_path / "images").mkdir()
    messages = [conversations.user(conversations.image("odd"), conversations.text("What is it?"))]
    logits = []
    for seed in (1, 2):
        pictures.picture(70, 50, "RGB", seed).save(tmp_path / "images/odd.png")
        encoded = processor.apply_chat_template(
            golden.for_transformers(messages, tmp_path), tokenize=True, return_dict=True, return_tensors="pt"
        )
        logits.append(model(**encoded).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_both_spellings_and_layouts_are_drawn():
    drawn = [shapes.draw(family, seed) for family in shapes.FAMILIES for seed in range(20)]
    for field in (
        "old_spelling",
        "hub_layout",
        "shards",
        "tied",
        "splitting",
        "template_writes_bos",
        "special_structure",
    ):
        assert {getattr(each, field) for each in drawn} == {True, False}, field
    assert {each.tokenizer for each in drawn} == {"gpt2", "llama3", "sentencepiece"}
    assert all(each.grid % each.scale == 0 and each.rest < each.patch for each in drawn)


def test_merges_do_not_depend_on_chance():
    drawn = shapes.draw("smolvlm", 1)
    assert (
        tokens.tokenizer(drawn).backend_tokenizer.to_str()
        == tokens.tokenizer(drawn).backend_tokenizer.to_str()
    )


def test_modes_of_pictures():
    assert [pictures.picture(9, 5, mode, 1).mode for mode in ("RGB", "RGBA", "L", "P")] == [
        "RGB",
        "RGBA",
        "L",
        "P",
    ]
    assert isinstance(pictures.picture(1, 1, "RGB", 0), Image.Image)


# Weights of the released checkpoints, by a part of their names: (out, in).
RELEASED = {
    "smolvlm": {"text_model.layers.0.mlp.gate_proj": (1536, 576), "layers.0.mlp.fc1": (3072, 768)},
    "idefics3": {"text_model.layers.0.mlp.gate_proj": (14336, 4096), "layers.0.mlp.fc1": (4304, 1152)},
    "qwen3_vl": {
        "layers.0.mlp.gate_proj": (6144, 2048),
        "layers.0.self_attn.k_proj": (1024, 2048),
        "blocks.0.mlp.linear_fc1": (4096, 1024),
        "deepstack_merger_list.2.linear_fc1": (4096, 4096),
        "visual.pos_embed": (2304, 1024),
    },
    "qwen2_5_vl": {
        "language_model.layers.0.mlp.gate_proj": (11008, 2048),
        "layers.0.self_attn.k_proj": (256, 2048),
        "blocks.0.mlp.gate_proj": (3420, 1280),
    },
    "qwen3_5": {
        "layers.0.mlp.gate_proj": (3584, 1024),
        "layers.3.self_attn.q_proj": (4096, 1024),
        "layers.0.linear_attn.in_proj_qkv": (6144, 1024),
        "blocks.0.mlp.linear_fc1": (3072, 768),
    },
}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_widths_are_those_of_released_checkpoints(family):
    drawn = widths.draw(family, 1)
    if family in shapes.FAMILIES:
        config_class, model_class = checkpoint.CLASSES[family][:2]
        tokenizer = tokens.tokenizer(drawn, None)
        config = checkpoint.config_of(drawn, tokenizer, len(tokenizer))
    else:
        config_class, model_class = qwen.checkpoint.CLASSES[family][:2]
        config = qwen.checkpoint.config_of(drawn, qwen.tokens.tokenizer(drawn))
    with torch.device("meta"):
        model = model_class(config_class(**config))
    found = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    for part, shape in RELEASED[family].items():
        of_part = [name for name in found if name.endswith(f"{part}.weight")]
        assert of_part and all(found[name] == shape for name in of_part), (part, of_part)
    # Checkpoints that a machine of 24 GB can hold in 32 bits, some times over.
    assert 5e7 < sum(weight.numel() for weight in model.parameters()) < 5e8


def test_a_large_picture_is_drawn_where_it_is_shown(tmp_path):
    drawn = shapes.draw("smolvlm", 5)
    names = {}
    for folder, more in (("plain", {}), ("more", conversations.LARGE)):
        draw.draw_pictures(drawn, tmp_path / folder, more)
        names[folder] = {file.name for file in (tmp_path / folder).iterdir()}
    assert names["more"] - names["plain"] == {"large.png"}
    assert Image.open(tmp_path / "more/large.png").size == (512, 512)
    for name in names["plain"]:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()
