"""The stock checkpoint that reads: the way it is trained computes what transformers computes, its data depend
on the step alone, and a killed run goes on as if nothing had been."""

import copy
import json
import random

import numpy as np
import pytest
import torch
import yaml
from arrcoc_ledger import SIZE, Kind, PageSpec, draw_page
from arrcoc_stock_reader import data, forward, losses, model, run
from arrcoc_stock_reader.learner import Learner
from arrcoc_stock_reader.validate import DENSITIES, held_out
from arrcoc_training.data import IGNORED
from safetensors.torch import load_file
from stock.qwen import checkpoint
from train_stock import CONFIG

torch.set_num_threads(1)
SIZES = yaml.safe_load(CONFIG.read_text())


def small() -> dict:
    config = copy.deepcopy(SIZES)
    config["validation_pages"] = 1
    for phase in config["phases"]:
        phase.update(steps=3, validate_every=2)
        for kind in phase["pictures"]:
            size = [64, 96] if kind["size"] == [SIZE, SIZE] else [96, 64]
            kind.update(size=size, count=2, records=[20, 30], questions=min(2, kind["questions"]))
    return config


@pytest.fixture(scope="module")
def learner() -> Learner:
    return Learner(SIZES, model.tokenizer()).eval()


@pytest.fixture
def batch(learner) -> data.Batch:
    phase = small()["phases"][-1]
    return data.Pages(SIZES, phase, model.tokenizer())[2]


def test_the_forward_pass_is_transformers(learner, batch):
    """Rows, taps, and the logits of every branch as if it were the only question."""
    network = learner.model
    grid = torch.tensor([[1, batch.pixels.shape[1] // 8, batch.pixels.shape[2] // 8]])
    with torch.no_grad():
        rows, taps = learner.see(batch.pixels)
        size = batch.pixels.shape[1] // data.TOKEN, batch.pixels.shape[2] // data.TOKEN
        decoded = forward.decode(
            network.model.language_model, learner.before, rows, taps, size, batch.branches, 2
        )
        ours = network.lm_head(decoded.hidden)
        for picture in range(len(batch.pixels)):
            flat = forward.patches(batch.pixels[picture][None], 8, 2)[0]
            pixels = flat.unflatten(1, (3, 1, 64)).expand(-1, -1, 2, -1).flatten(1)
            seen = network.model.visual(pixels, grid)
            torch.testing.assert_close(rows[picture], seen.pooler_output, atol=1e-5, rtol=1e-4)
            for tap, expected in zip(taps, seen.deepstack_features, strict=True):
                torch.testing.assert_close(tap[picture], expected, atol=1e-5, rtol=1e-4)
            for branch, logits in zip(batch.branches[picture], ours[picture], strict=True):
                image = torch.full((rows.shape[1],), network.config.image_token_id)
                ids = torch.cat([learner.before, image, branch])[None]
                network.model.rope_deltas = None
                types = (ids == network.config.image_token_id).int()
                whole = network(
                    input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=types
                )
                torch.testing.assert_close(logits, whole.logits[0, -len(branch) :], atol=2e-4, rtol=1e-4)


def test_watched_heads_share_out_what_they_see(learner, batch):
    with torch.no_grad():
        rows, taps = learner.see(batch.pixels)
        size = batch.pixels.shape[1] // data.TOKEN, batch.pixels.shape[2] // data.TOKEN
        looks = forward.decode(
            learner.model.model.language_model, learner.before, rows, taps, size, batch.branches, 2
        ).looks
    assert looks.shape == (*batch.branches.shape, rows.shape[1])
    torch.testing.assert_close(looks.exp().sum(-1), torch.ones(batch.branches.shape))
    assert looks.std() > 0.1


def test_pointing_is_best_at_the_evidence():
    labels = torch.tensor([[[IGNORED, 5, 6, 7, IGNORED]]])
    evidence = torch.tensor([[[False, True, True, False]]])
    right = torch.tensor([1e-6, 0.5, 0.5, 1e-6]).log().expand(1, 1, 5, 4)
    even = torch.full((1, 1, 5, 4), 0.25).log()
    assert losses.pointing_loss(right, labels, evidence).item() == pytest.approx(0.0, abs=1e-5)
    assert losses.pointing_loss(even, labels, evidence).item() == pytest.approx(np.log(2), abs=1e-5)
    # Where no answer is written, and where the end is, anything goes.
    free = even.clone()
    free[:, :, [0, 3, 4]] = -50.0
    torch.testing.assert_close(
        losses.pointing_loss(free, labels, evidence), losses.pointing_loss(even, labels, evidence)
    )


def test_heads_begin_at_their_offsets(learner):
    """Of a blank picture, whose patches differ by nothing but their places."""
    visual = learner.model.model.visual
    rows = columns = 12
    _, _, cos, sin = forward.places(visual, rows, columns)
    order = forward.get_vision_position_ids(torch.tensor([[1, rows, columns]]), 2, kwargs={})
    at = {
        (int(r), int(c)): n for n, (r, c) in enumerate(order.reshape(2, -1).T if len(order) == 2 else order)
    }
    attention = visual.blocks[0].attn
    heads, width = attention.num_heads, attention.head_dim
    q, k, _ = (
        attention.qkv.bias.detach().view(3, 1, heads, 1, width).expand(3, 1, heads, rows * columns, width)
    )
    scores = forward.rotate(q, cos, sin) @ forward.rotate(k, cos, sin).transpose(2, 3)  # [1, heads, P, P]
    for head, (down, right) in enumerate(model.OFFSETS[0]):
        assert scores[0, head, at[5, 6]].argmax() == at[5 + down, 6 + right]


def test_a_branch_is_the_chat_templates(tmp_path, learner):
    model.save(learner.model, tmp_path, SIZE)
    _, processor = checkpoint.load("qwen3_vl", tmp_path)
    page = draw_page(random.Random(0), PageSpec(records=3))
    content = [{"type": "image", "image": page.image}, {"type": "text", "text": "Find QX."}]
    messages = [{"role": "user", "content": content}]
    encoded = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids, labels = learner.text.branch("Find QX.", "047")
    answered = next(n for n, label in enumerate(labels) if label != IGNORED) + 1
    image = [learner.model.config.image_token_id] * (SIZE // data.TOKEN) ** 2
    assert encoded["input_ids"][0].tolist() == learner.text.before + image + ids[:answered]
    said = [label for label in labels if label != IGNORED]
    assert processor.tokenizer.decode(said) == "047<|im_end|>"
    assert ids[answered : answered + len(said) - 1] == said[:-1]
    # A page is seen 1:1.
    pixels = torch.from_numpy(np.asarray(page.image).copy())[None]
    flat = forward.patches(pixels, 8, 2)[0].unflatten(1, (3, 1, 64)).expand(-1, -1, 2, -1).flatten(1)
    torch.testing.assert_close(encoded["pixel_values"], flat)


def test_batches_depend_on_the_step_alone():
    config = small()
    phase = config["phases"][1]
    one, other = (data.Pages(config, phase, model.tokenizer()) for _ in range(2))
    later = one[2]
    again, before = other[2], other[1]
    for name in ("pixels", "kind", "slots", "glyphs", "branches", "labels", "evidence"):
        assert torch.equal(getattr(later, name), getattr(again, name)), name
    assert not torch.equal(later.pixels, before.pixels)


def test_parts_ask_only_for_what_they_show():
    rng = random.Random(3)
    page = draw_page(rng, PageSpec(records=30, table=True, shapes=4))
    whole = data.crop(page, 0, 0, SIZE, SIZE)
    part = data.crop(page, 80, 80, 160, 160)
    assert {item.number for item in part.items} < {item.number for item in whole.items}
    assert any(item.kind is Kind.RECORD for item in part.items)
    for item in part.items:
        left, top, right, bottom = item.box
        assert left >= 80 and top >= 80 and right <= 240 and bottom <= 240
        assert (part.numbers == item.number).any()
    # Labels of a part are those of the page where it lies on its grid.
    side = SIZE // data.TOKEN
    inner = whole.kind.reshape(side, side)[5:15, 5:15].reshape(-1)
    assert (part.kind == inner).all() and (part.kind > 0).any()
    cut = [n for n in set(part.numbers.tolist()) - {0} if n not in {item.number for item in part.items}]
    assert cut and (part.slots[np.isin(part.numbers, cut)] == IGNORED).all()


def test_held_out_pages_are_the_same_every_time(learner):
    for name in ("records-4", "rich-15"):
        assert name in DENSITIES
        one, other = (next(held_out(learner, name, 2, SIZES["topics"])) for _ in range(2))
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.branches, other.branches)
        assert one.evidence.any(-1).all()


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOG_EVERY", 1)
    config = small()
    unbroken = run.Run(config, tmp_path / "unbroken")
    unbroken.run(hours=1)

    broken = run.Run(config, tmp_path / "broken")
    for _ in range(20):
        broken.run(hours=0)  # a step
        if broken.phase == len(config["phases"]):
            break
        # Killed while it went on: something was logged that no state knows.
        with broken.log_file.open("a") as file:
            file.write('{"lost": 1}\n')
        broken = run.Run(config, tmp_path / "broken")
        broken.resume()
    assert broken.phase == len(config["phases"])
    for (name, one), (_, other) in zip(
        unbroken.learner.state_dict().items(), broken.learner.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name

    def lines(of: run.Run) -> list[dict]:
        found = [json.loads(line) for line in of.log_file.read_text().splitlines()]
        return [
            {key: value for key, value in line.items() if key not in ("seconds", "processor")}
            for line in found
        ]

    assert lines(unbroken) == lines(broken)
    assert [line["step"] for line in lines(unbroken) if "gradient" in line] == [1, 2, 3] * len(
        config["phases"]
    )


def test_another_configuration_is_refused(tmp_path):
    config = small()
    first = run.Run(config, tmp_path)
    first.run(hours=0)
    config["phases"][0]["lr"] = 1.0
    with pytest.raises(SystemExit, match="another configuration"):
        run.Run(config, tmp_path).resume()


def test_the_checkpoint_is_transformers_own(tmp_path, learner, batch):
    """Half precision, 16 MB at most, every weight where transformers looks for it, and the same answers."""
    model.save(learner.model, tmp_path, SIZE)
    assert (tmp_path / "model.safetensors").stat().st_size <= 16_000_000
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    loaded, _ = checkpoint.load("qwen3_vl", tmp_path)
    kept = learner.model.state_dict()
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, kept[name].half().float(), atol=0, rtol=0)
    assert learner.model.dtype is torch.float32
