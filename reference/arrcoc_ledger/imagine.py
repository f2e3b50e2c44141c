"""What could stand on a page, without drawing it: for what learns to answer before it learns to see."""

import random

from .page import COLOURS, LETTERS, SHAPES, Item, Kind, Page, PageSpec, digits, unused_keys


def imagine(rng: random.Random, spec: PageSpec) -> Page:
    """A page with items as `draw_page` makes them, but with no picture and no places."""
    bars = rng.randint(3, 5) if spec.chart else 0
    keys = unused_keys(rng, spec.records + spec.links + bars)
    rows = [(Kind.BAR, keys.pop(), digits(rng, 2)) for _ in range(bars)]
    records = [(Kind.RECORD, key, digits(rng, 3)) for key in keys[: spec.records]]
    targets = rng.sample(records, min(spec.links, len(records)))
    rows += [(Kind.LINK, key, "".join(to[1])) for key, to in zip(keys[spec.records :], targets)]
    rows += records
    if spec.table:
        height, width = rng.randint(3, 4), rng.randint(3, 4)
        names = rng.sample(LETTERS, height + width)
        rows += [(Kind.CELL, (r, c), digits(rng, 2)) for r in names[:height] for c in names[height:]]
    pairs = rng.sample([(c, s) for c in COLOURS for s in SHAPES], spec.shapes)
    rows += [(Kind.SHAPE, pair, digits(rng, 2)) for pair in pairs]
    items = [Item(kind, key, value, n, (0.0, 0.0, 0.0, 0.0)) for n, (kind, key, value) in enumerate(rows, 1)]
    return Page(None, items, None, None, sum(len("".join(key)) + len(value) for _, key, value in rows))
