"""ARR-Ledger: pages are what they say they are."""

import json
import random

import make_ledger
import numpy as np
import pytest
from arrcoc_ledger import COLOURS, ONE_PLACE, SHAPES, SIZE, Kind, PageSpec, Topic, ask, draw_page, patch_labels
from arrcoc_ledger.labels import INDEX, evidence_patches
from arrcoc_ledger.page import CELL, GLYPHS

FULL = PageSpec(records=20, links=2, table=True, chart=True, shapes=5, textures=2)


def page(seed: int, spec: PageSpec = FULL):
    return draw_page(random.Random(seed), spec)


def test_a_seed_is_a_page():
    one, again, other = page(1), page(1), page(2)
    assert one.image.tobytes() == again.image.tobytes()
    assert one.items == again.items
    assert one.image.tobytes() != other.image.tobytes()


def test_every_kind_is_there_and_named_once():
    found = page(3).items
    assert {item.kind for item in found} == set(Kind)
    names = [item.key for item in found if item.kind in (Kind.RECORD, Kind.LINK, Kind.BAR)]
    assert len(set(names)) == len(names)
    shapes = [item.key for item in found if item.kind is Kind.SHAPE]
    assert len(set(shapes)) == len(shapes)
    assert all(colour in COLOURS and shape in SHAPES for colour, shape in shapes)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_hold_ink_and_do_not_overlap(seed: int):
    """Without tilt and noise, where an item is, there is something to see, and nothing else's."""
    drawn = page(seed, PageSpec(records=30, shapes=3, tilt=0.0, noise=0.0))
    pixels = np.asarray(drawn.image.convert("L")).astype(int)
    paper = pixels[0, 0]
    for item in drawn.items:
        left, top, right, bottom = map(int, item.box)
        assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE
        assert (abs(pixels[top:bottom, left:right] - paper) > 40).mean() > 0.03, item
        inside = drawn.item_map[top // CELL : bottom // CELL, left // CELL : right // CELL]
        assert set(np.unique(inside)) <= {0, item.number}, item


def test_a_tilted_item_stays_under_its_box():
    """The dark pixels of a lone record lie in its box, whatever the tilt."""
    for seed in range(8):
        drawn = page(seed, PageSpec(records=1, tilt=3.0, noise=0.0))
        pixels = np.asarray(drawn.image.convert("L")).astype(int)
        ys, xs = np.nonzero(pixels < pixels[0, 0] - 60)
        left, top, right, bottom = drawn.items[0].box
        assert left - CELL <= xs.min() and xs.max() < right + CELL
        assert top - CELL <= ys.min() and ys.max() < bottom + CELL


def test_answers():
    drawn = page(4)
    rng = random.Random(0)
    by_key = {("".join(i.key), i.kind): i for i in drawn.items}
    for _ in range(40):
        record = ask(rng, drawn, Topic.RECORD)
        item = record.evidence[0]
        assert "".join(item.key) in record.query and record.answer == item.value and len(record.answer) == 3
        hop = ask(rng, drawn, Topic.TWO_HOP)
        link, target = hop.evidence
        assert link.value == "".join(target.key) and hop.answer == by_key[link.value, Kind.RECORD].value
        count = ask(rng, drawn, Topic.COUNT)
        words = count.query.replace("s are", " are").split()
        assert int(count.answer) == sum(
            any(word in item.key for word in words) for item in drawn.items if item.kind is Kind.SHAPE
        )
    everything = ask(rng, page(5, PageSpec(records=3)), Topic.TRANSCRIPTION)
    assert everything.answer == ", ".join(sorted(everything.answer.split(", "))) and len(everything.evidence) == 3
    assert ask(rng, page(6, PageSpec(records=2)), Topic.CELL) is None


def test_patch_labels_name_the_item_and_its_glyphs():
    drawn = page(7, PageSpec(records=12, tilt=0.0))
    labels = patch_labels(drawn)
    assert labels.item.shape == (400,) and labels.glyphs.shape == (400, 16)
    for item in drawn.items:
        mine = labels.item == item.number
        assert mine.any()
        assert (labels.kind[mine] == Kind.RECORD).all()
        assert (labels.slots[mine] == [INDEX[s] for s in (*item.key, *item.value)]).all()
        shown = {GLYPHS[g - 1] for g in labels.glyphs[mine].flatten() if g}
        assert shown & set(item.value)


def test_evidence_covers_the_box():
    drawn = page(8, PageSpec(records=10, tilt=0.0))
    for item in drawn.items:
        patches = evidence_patches(drawn, [item.number]).reshape(20, 20)
        left, top, right, bottom = (int(v) for v in item.box)
        middle = patches[(top + bottom) // 2 // 16, (left + right) // 2 // 16]
        assert middle
        rows, columns = np.nonzero(patches)
        assert columns.min() * 16 >= left - 16 and (columns.max() + 1) * 16 <= right + 16
        assert rows.min() * 16 >= top - 16 and (rows.max() + 1) * 16 <= bottom + 16


def test_one_place_means_one_item():
    rng = random.Random(1)
    for topic in ONE_PLACE:
        assert len(ask(rng, page(3), topic).evidence) == 1


@pytest.mark.parametrize(("flags", "records", "kinds"), [
    (["--records", "4,9", "--alone"], [4, 9], {"record"}),
    (["--records", "7"], [7, 7], {"record", "cell", "shape", "bar"}),
])
def test_pages_are_of_the_densities_asked_for(tmp_path, monkeypatch, flags, records, kinds):
    drawn = []
    monkeypatch.setattr(make_ledger, "draw_page", lambda rng, spec: drawn.append(spec) or draw_page(rng, spec))
    monkeypatch.setattr("sys.argv", ["make_ledger.py", "--out", str(tmp_path), "--pages", "2", "--controls", "0", *flags])
    make_ledger.main()
    assert [spec.records for spec in drawn] == records
    rows = json.loads((tmp_path / "ledger.json").read_text())
    assert len(rows) == 8 and {row["kind"] for row in rows} == kinds
    assert all((tmp_path / row["image"]).is_file() and len(row["box"]) == 4 for row in rows)
