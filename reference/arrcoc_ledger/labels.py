"""What each patch of a page shows: the labels of the auxiliary loss that plays the part of SAM's and CLIP's pretraining."""

from typing import NamedTuple

import numpy as np

from .page import CELL, COLOURS, GLYPHS, SHAPES, SIZE, Kind, Page

# Classes of a key's two places and of a value's three; 0 is "none".
SYMBOLS = ["", *GLYPHS, *COLOURS, *SHAPES]
INDEX = {symbol: i for i, symbol in enumerate(SYMBOLS)}
KINDS = 1 + len(Kind)
SLOTS = 5  # two of the key, three of the value


class PatchLabels(NamedTuple):
    item: np.ndarray  # [P] the item that covers most of the patch, 0 for none
    kind: np.ndarray  # [P] its kind, 0 for none
    slots: np.ndarray  # [P, 5] its key and value, as indices into SYMBOLS
    glyphs: np.ndarray  # [P, 16] the glyph in each of 4 x 4 places: 1 + index into GLYPHS, 0 for none


def patch_labels(page: Page, patch: int = 16) -> PatchLabels:
    per_patch, side = patch // CELL, SIZE // patch

    def by_patch(grid: np.ndarray) -> np.ndarray:
        blocks = grid.reshape(side, per_patch, side, per_patch)
        return blocks.transpose(0, 2, 1, 3).reshape(side * side, per_patch**2)  # [P, cells of a patch]

    cells = by_patch(page.item_map)
    counts = (cells[:, :, None] == cells[:, None, :]).sum(-1) * (cells > 0)  # [P, cells]
    best = counts.argmax(-1)
    rows = np.arange(len(cells))
    item = np.where(counts[rows, best] >= 2, cells[rows, best], 0)

    kinds = np.zeros(int(item.max()) + 1, np.int64)
    slots = np.zeros((int(item.max()) + 1, SLOTS), np.int64)
    for entry in page.items:
        if entry.number < len(kinds):
            kinds[entry.number] = entry.kind
            symbols = [*entry.key, *entry.value]
            slots[entry.number, : len(symbols)] = [INDEX[s] for s in symbols]

    return PatchLabels(item, kinds[item], slots[item], by_patch(page.glyph_map))


def evidence_patches(page: Page, numbers: list[int], patch: int = 16) -> np.ndarray:
    """Which patches show some of these items: [P] of bools."""
    per_patch, side = patch // CELL, SIZE // patch
    hit = np.isin(page.item_map, numbers).reshape(side, per_patch, side, per_patch)
    return hit.sum((1, 3)).reshape(-1) >= 2
