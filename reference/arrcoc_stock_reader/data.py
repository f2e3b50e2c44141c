"""Pictures and questions about them. A batch depends on the seed, the phase and the number of its step alone,
so that a resumed run sees what an unbroken one would have seen.

Letters are those of `forward.py`.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from arrcoc_ledger import ONE_PLACE, SIZE, Item, Kind, Page, Topic, draw_page
from arrcoc_ledger.labels import INDEX, SLOTS, patch_labels
from arrcoc_ledger.page import CELL
from arrcoc_ledger.questions import TEMPLATES
from arrcoc_training.data import IGNORED, page_spec
from arrcoc_training.data import Text as Conversations
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

TOKEN = 16  # pixels of a visual token's side
LENGTH = 26  # tokens of a branch: the longest question, its answer and what stands round them
GROWTH = 0.6  # of a phase
TOPICS = {Kind.RECORD: Topic.RECORD, Kind.CELL: Topic.CELL, Kind.SHAPE: Topic.SHAPE, Kind.BAR: Topic.BAR}


@dataclass
class Batch:
    pixels: Tensor  # [G, h, w, 3] uint8
    kind: Tensor  # [G, T] what each visual token shows, 0 for nothing
    slots: Tensor  # [G, T, 5] its key and value, IGNORED where it is not wholly in the picture
    glyphs: Tensor  # [G, T, 16]
    branches: Tensor  # [G, K, L] ids
    labels: Tensor  # [G, K, L] the next token, IGNORED outside of the answer
    evidence: Tensor  # [G, K, T] bool: tokens that show what is asked for
    topics: list[list[str]]  # of each question


class Text(Conversations):
    """Questions into ids, in the chat template's form, each a conversation of its own."""

    def branch(self, query: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids and labels behind the picture, of LENGTH."""
        ids = self.ids(f"<|vision_end|>{query}<|im_end|>\n<|im_start|>assistant\n")
        said = self.ids(f"{answer}<|im_end|>")
        labels = [IGNORED] * (len(ids) - 1) + said
        ids = ids + said[:-1]
        if len(ids) > LENGTH:
            raise ValueError(f"expected at most {LENGTH} tokens, found {len(ids)}: {query}")
        short = LENGTH - len(ids)
        return ids + [self.pad] * short, labels + [IGNORED] * short


def question(rng: random.Random, item: Item) -> str:
    first, second = item.key
    template = rng.choice(TEMPLATES[TOPICS[item.kind]])
    return template.format(key=first + second, row=first, column=second, colour=first, shape=second)


@dataclass
class Crop:
    """A part of a page, or all of it: `items` are those that are wholly in it."""

    pixels: np.ndarray  # [h, w, 3]
    kind: np.ndarray  # [T]
    slots: np.ndarray  # [T, 5]
    glyphs: np.ndarray  # [T, 16]
    items: list[Item]
    numbers: np.ndarray  # [T] the item of each token


def crop(page: Page, left: int, top: int, width: int, height: int) -> Crop:
    """All in pixels; places are multiples of CELL, sizes of TOKEN."""
    whole = [item for item in page.items if inside(extent(page, item), left, top, width, height)]
    rows = slice(top // CELL, (top + height) // CELL)
    columns = slice(left // CELL, (left + width) // CELL)
    maps = replace(page, item_map=page.item_map[rows, columns], glyph_map=page.glyph_map[rows, columns])
    labels = patch_labels_of(maps)
    slots = np.where(np.isin(labels.item, [item.number for item in whole])[:, None], labels.slots, IGNORED)
    pixels = np.asarray(page.image)[top : top + height, left : left + width]
    return Crop(pixels, labels.kind, slots, labels.glyphs, whole, labels.item)


def patch_labels_of(page: Page):
    """`patch_labels` of maps of any size: they are laid into those of a page."""
    rows, columns = page.item_map.shape
    side = SIZE // CELL
    padded = [np.pad(m, ((0, side - rows), (0, side - columns))) for m in (page.item_map, page.glyph_map)]
    labels = patch_labels(replace(page, item_map=padded[0], glyph_map=padded[1]), TOKEN)
    n, per = SIZE // TOKEN, TOKEN // CELL

    def cut(x: np.ndarray) -> np.ndarray:
        return x.reshape(n, n, *x.shape[1:])[: rows // per, : columns // per].reshape(-1, *x.shape[1:])

    return type(labels)(*(cut(x) for x in labels))


def extent(page: Page, item: Item) -> tuple[float, float, float, float]:
    """What has to be seen of an item: of a table's cell also the names of its row and column."""
    left, top, right, bottom = item.box
    if item.kind is not Kind.CELL:
        return left, top, right, bottom
    boxes = [other.box for other in page.items if other.kind is Kind.CELL]
    width, height = right - left, bottom - top
    return min(box[0] for box in boxes) - width, min(box[1] for box in boxes) - height, right, bottom


def inside(box: tuple, left: int, top: int, width: int, height: int) -> bool:
    return box[0] >= left and box[1] >= top and box[2] <= left + width and box[3] <= top + height


def around(rng: random.Random, start: float, end: float, size: int) -> int:
    """Where a part of `size` pixels begins that holds what lies from `start` to `end`, if it can."""
    least, most = max(0, int(end) - size), min(int(start), SIZE - size)
    if least > most:
        least, most = 0, SIZE - size
    return min(SIZE - size, -(-rng.randint(least, most) // CELL) * CELL)


def choose(rng: random.Random, items: list[Item], topics: dict[str, float], count: int) -> list[Item]:
    """Items to ask for: topics by their weights, among what there is."""
    by_topic: dict[str, list[Item]] = {}
    for item in items:
        if item.kind in TOPICS:
            by_topic.setdefault(TOPICS[item.kind], []).append(item)
    names = [topic for topic in topics if topic in by_topic]
    weights = [topics[name] for name in names]
    if not names or not any(weights):
        return []
    return [rng.choice(by_topic[rng.choices(names, weights)[0]]) for _ in range(count)]


class Pages(Dataset):
    """Item i is the whole batch of step i."""

    def __init__(self, config: dict, phase: dict, tok: Tokenizer):
        self.phase, self.text = phase, Text(tok)
        self.seed = config["seed"]
        self.limits = config["pages"] | phase.get("limits", {})
        self.topics = phase.get("topics", config["topics"])

    def __len__(self) -> int:
        return self.phase["steps"]

    def __getitem__(self, step: int) -> Batch:
        rng = random.Random(f"{self.seed}/{self.phase['name']}/{step}")
        # Pages fill, get harder to read, and pictures larger, over the first part of a phase.
        grown = min(1.0, step / (GROWTH * self.phase["steps"]))
        kinds = self.phase["pictures"]
        shares = [kind["share"][0] + (kind["share"][1] - kind["share"][0]) * grown for kind in kinds]
        kind = rng.choices(kinds, shares)[0]
        least, most = kind["records"]
        records = round(least * (most / least) ** grown)
        hardness = 0.3 + 0.7 * grown if self.phase.get("harden") else 1.0
        crops: list[Crop] = []
        while len(crops) < kind["count"]:
            page = draw_page(rng, page_spec(rng, self.limits, records, hardness))
            crops += self.crops(rng, page, kind)
        crops = crops[: kind["count"]]
        asked = [choose(rng, part.items, self.topics, kind["questions"]) for part in crops]
        return make_batch(rng, self.text, crops, asked)

    def crops(self, rng: random.Random, page: Page, kind: dict) -> list[Crop]:
        """Parts of a page, each round some item of it, about which something can be asked."""
        width, height = kind["size"]
        found = []
        for _ in range(kind["parts"] if page.items else 0):
            left, top, right, bottom = extent(page, rng.choice(page.items))
            part = crop(
                page, around(rng, left, right, width), around(rng, top, bottom, height), width, height
            )
            if not kind["questions"] or choose(rng, part.items, self.topics, 1):
                found.append(part)
        return found


def make_batch(rng: random.Random, text: Text, crops: list[Crop], asked: list[list[Item]]) -> Batch:
    rows = [[text.branch(question(rng, item), item.value) for item in items] for items in asked]
    ids, labels = ([[row[part] for row in some] for some in rows] for part in (0, 1))
    evidence = [
        [part.numbers == item.number for item in items] for part, items in zip(crops, asked, strict=True)
    ]

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(part, name) for part in crops])).long()

    return Batch(
        pixels=torch.from_numpy(np.stack([part.pixels for part in crops])),
        kind=stack("kind"),
        slots=stack("slots"),
        glyphs=stack("glyphs"),
        branches=torch.tensor(ids, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        evidence=torch.from_numpy(np.array(evidence, dtype=bool)),
        topics=[[TOPICS[item.kind] for item in items] for items in asked],
    )


def symbol_ids(text: Text) -> list[list[int]]:
    """The tokens of each of the labels' symbols, as questions spell them."""
    return [[] if not s else text.ids(s if len(s) == 1 else f" {s}") for s in INDEX]


__all__ = [
    "Batch",
    "Crop",
    "LENGTH",
    "ONE_PLACE",
    "Pages",
    "SLOTS",
    "TOKEN",
    "Text",
    "crop",
    "make_batch",
    "symbol_ids",
]
