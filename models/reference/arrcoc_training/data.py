"""Batches of pages and questions. A batch depends on the seed and the number of its step alone, so that a resumed run
sees what an uninterrupted one would have seen.

Letters are those of arrcoc_reference's docstring; G pages of a batch, N questions (the same number about each page),
S the longest text of the batch.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from arrcoc_ledger import Kind, PageSpec, Question, Topic, ask, draw_page
from arrcoc_ledger.labels import evidence_patches, patch_labels

# A transcription is only asked for where it stays short.
MAX_TRANSCRIBED = 6
IGNORED = -100  # cross-entropy's label for "no loss here"


@dataclass
class Batch:
    pixels: Tensor  # [G, 320, 320, 3] uint8
    kind: Tensor  # [G, P]
    slots: Tensor  # [G, P, 5]
    glyphs: Tensor  # [G, P, 16]
    page: Tensor  # [N] which page each question is about
    query_ids: Tensor  # [N, Q] right padded
    query_mask: Tensor  # [N, Q]
    evidence: Tensor  # [N, P] bool: patches that one has to see
    one_place: Tensor  # [N] bool
    before: Tensor  # [B0] the prompt up to the image
    after: Tensor  # [N, S] the prompt behind the image, and the answer, right padded
    labels: Tensor  # [N, S] what comes next, IGNORED outside the answer


class Text:
    """Questions into ids, in the chat template's form."""

    def __init__(self, tok: Tokenizer):
        self.tok = tok
        self.pad = tok.token_to_id("<|endoftext|>")
        # As the chat template writes it; test_training.py holds them against each other.
        self.before = self.ids("<|im_start|>user\n<|vision_start|>")

    def ids(self, text: str) -> list[int]:
        return self.tok.encode(text, add_special_tokens=False).ids

    def after(self, query: str, answer: str) -> tuple[list[int], list[int]]:
        prompt = self.ids(f"<|vision_end|>{query}<|im_end|>\n<|im_start|>assistant\n")
        answer_ids = self.ids(f"{answer}<|im_end|>")
        ids = prompt + answer_ids
        # The label of a position is the id behind it.
        labels = [IGNORED] * (len(prompt) - 1) + answer_ids + [IGNORED]
        return ids, labels

    def padded(self, rows: list[list[int]], value: int) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def page_spec(rng: random.Random, limits: dict, records: int, hardness: float = 1.0) -> PageSpec:
    """`hardness` from 0 to 1: how much a page is tilted, noisy and pale, and in how many fonts."""
    few = rng.random() < limits.get("few", 0.15)  # short pages stay in the mix: transcription needs them
    count = rng.randint(1, MAX_TRANSCRIBED) if few else rng.randint((records + 1) // 2, records)
    return PageSpec(
        records=count,
        links=0 if few else rng.randint(0, limits["links"]),
        table=rng.random() < limits["table"],
        chart=rng.random() < limits["chart"],
        shapes=rng.randint(0, limits["shapes"]),
        textures=rng.randint(0, limits["textures"]),
        font_size=(12, 13) if count > 50 else (12, 16),
        tilt=2.0 * hardness,
        noise=10.0 * hardness,
        contrast=0.9 - 0.3 * hardness,
        fonts=1 + round(4 * hardness),
    )


def draw_question(rng: random.Random, page, topics: dict[str, float]) -> Question:
    """By the weights of `topics`, among what the page can answer."""
    while True:
        topic = Topic(rng.choices(list(topics), list(topics.values()))[0])
        question = ask(rng, page, topic)
        records = sum(item.kind is Kind.RECORD for item in page.items)
        if question and not (topic is Topic.TRANSCRIPTION and records > MAX_TRANSCRIBED):
            return question


def spelt_out(rng: random.Random, page) -> str:
    """A page as text, for the decoder's own pretraining."""
    lines = []
    for item in page.items:
        first, second = item.key
        lines.append({
            Kind.RECORD: f"{first}{second} {item.value}",
            Kind.LINK: f"{first}{second}>{item.value}",
            Kind.CELL: f"row {first} column {second} {item.value}",
            Kind.BAR: f"bar {first}{second} {item.value}",
            Kind.SHAPE: f"{first} {second} {item.value}",
        }[item.kind])  # fmt: skip
    rng.shuffle(lines)
    return "\n".join(lines)


class Pages(Dataset):
    """Item i is the whole batch of step i."""

    def __init__(self, config: dict, phase: dict, tok: Tokenizer, seed: int):
        self.config, self.phase, self.text, self.seed = config, phase, Text(tok), seed

    def __len__(self) -> int:
        return self.phase["steps"]

    def __getitem__(self, step: int) -> Batch | tuple[Tensor, Tensor]:
        rng = random.Random(f"{self.seed}/{self.phase['name']}/{step}")
        least, most = self.phase["records"]
        # Pages fill over the first half of a phase.
        records = round(least + (most - least) * min(1.0, 2 * step / self.phase["steps"]))
        if self.phase.get("data") == "text":
            return self.spelt(rng, records)
        hardness = min(1.0, 2 * step / self.phase["steps"]) if self.phase.get("harden") else 1.0
        limits = self.config["pages"] | self.phase.get("limits", {})
        pages = [draw_page(rng, page_spec(rng, limits, records, hardness)) for _ in range(self.phase["pages"])]
        return self.batch(rng, pages)

    def spelt(self, rng: random.Random, records: int) -> tuple[Tensor, Tensor]:
        """Ids and labels [N, S]."""
        rows = []
        for _ in range(self.phase["questions"]):
            spec = page_spec(rng, self.config["pages"] | {"table": 0.1, "shapes": 3}, records)
            page = draw_page(rng, spec)
            question = draw_question(rng, page, self.config["topics"])
            ids, labels = self.text.after(question.query, question.answer)
            page_ids = self.text.before + self.text.ids(spelt_out(rng, page))
            rows.append((page_ids + ids, [IGNORED] * len(page_ids) + labels))
        ids, labels = zip(*rows)
        return self.text.padded(list(ids), self.text.pad), self.text.padded(list(labels), IGNORED)

    def batch(self, rng: random.Random, pages: list) -> Batch:
        return make_batch(
            self.text, pages,
            [(g, draw_question(rng, page, self.config["topics"])) for g, page in enumerate(pages) for _ in range(self.phase["questions"])],
        )  # fmt: skip


def make_batch(text: Text, pages: list, questions: list[tuple[int, Question]]) -> Batch:
    labels = [patch_labels(page) for page in pages]
    queries = [text.ids(question.query) for _, question in questions]
    suffixes = [text.after(question.query, question.answer) for _, question in questions]
    evidence = [evidence_patches(pages[g], [item.number for item in question.evidence]) for g, question in questions]
    return Batch(
        pixels=torch.from_numpy(np.stack([np.asarray(page.image) for page in pages])),
        kind=torch.from_numpy(np.stack([label.kind for label in labels])),
        slots=torch.from_numpy(np.stack([label.slots for label in labels])),
        glyphs=torch.from_numpy(np.stack([label.glyphs for label in labels])).long(),
        page=torch.tensor([g for g, _ in questions]),
        query_ids=text.padded(queries, text.pad),
        query_mask=text.padded([[1] * len(ids) for ids in queries], 0),
        evidence=torch.from_numpy(np.stack(evidence)),
        one_place=torch.tensor([len(question.evidence) == 1 for _, question in questions]),
        before=torch.tensor(text.before),
        after=text.padded([ids for ids, _ in suffixes], text.pad),
        labels=text.padded([labels for _, labels in suffixes], IGNORED),
    )
