"""Batches of pages and questions. A batch depends on the seed and the number of its step alone, so that a resumed run
sees what an uninterrupted one would have seen.

Letters are those of arrcoc_reference's docstring; G pages of a batch, M conversations (the same number about each page), N
questions (the same number in each conversation), S the longest text of the batch.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from arrcoc_ledger import ONE_PLACE, Kind, Page, PageSpec, Question, Topic, ask, draw_page, imagine
from arrcoc_ledger.labels import INDEX, SLOTS, evidence_patches, patch_labels

# A transcription is only asked for where it stays short.
MAX_TRANSCRIBED = 6
IGNORED = -100  # cross-entropy's label for "no loss here"


@dataclass
class Talk:
    """Conversations, as ids."""

    before: Tensor  # [B0] the prompt up to the image
    after: Tensor  # [M, S] questions and answers behind the image, right padded
    labels: Tensor  # [M, S] what comes next, IGNORED outside the answers
    question: Tensor  # [M, S] the number of the question that is answered, 0..N-1


@dataclass
class Codes:
    """Conversations about pages that nobody has drawn."""

    talk: Talk
    kind: Tensor  # [M, T]
    slots: Tensor  # [M, T, 5]
    relevance: Tensor  # [M, T]


@dataclass
class Batch:
    pixels: Tensor  # [G, 320, 320, 3] uint8
    kind: Tensor  # [G, P]
    slots: Tensor  # [G, P, 5]
    glyphs: Tensor  # [G, P, 16]
    talk: Talk
    page: Tensor  # [M] which page each conversation is about
    turns: int  # questions of a conversation: question n belongs to conversation n // turns
    query_ids: Tensor  # [N, Q] right padded
    query_mask: Tensor  # [N, Q]
    evidence: Tensor  # [N, P] bool: patches that one has to see
    one_place: Tensor  # [N] bool


class Text:
    """Questions into ids, in the chat template's form."""

    def __init__(self, tok: Tokenizer):
        self.tok = tok
        self.pad = tok.token_to_id("<|endoftext|>")
        # As the chat template writes it; test_training.py holds them against each other.
        self.before = self.ids("<|im_start|>user\n<|vision_start|>")

    def ids(self, text: str) -> list[int]:
        return self.tok.encode(text, add_special_tokens=False).ids

    def after(self, first: int, turns: list[Question]) -> tuple[list[int], list[int], list[int]]:
        """Ids, labels and numbers of questions, the first of which is `first`."""
        ids, answers = self.ids("<|vision_end|>"), []
        for number, question in enumerate(turns, first):
            opening = "" if number == first else "\n<|im_start|>user\n"
            ids += self.ids(f"{opening}{question.query}<|im_end|>\n<|im_start|>assistant\n")
            answer = self.ids(f"{question.answer}<|im_end|>")
            answers.append((len(ids), answer, number))
            ids += answer
        labels, numbers = [IGNORED] * len(ids), [first] * len(ids)
        for start, answer, number in answers:
            # The label of a position is the id behind it.
            labels[start - 1 : start - 1 + len(answer)] = answer
            numbers[start - 1 : start - 1 + len(answer)] = [number] * len(answer)
        return ids, labels, numbers

    def talk(self, conversations: list[list[Question]]) -> Talk:
        first, rows = 0, []
        for turns in conversations:
            rows.append(self.after(first, turns))
            first += len(turns)
        ids, labels, numbers = zip(*rows)
        padded = (self.padded(list(ids), self.pad), self.padded(list(labels), IGNORED), self.padded(list(numbers), 0))
        return Talk(torch.tensor(self.before), *padded)

    def padded(self, rows: list[list[int]], value: int) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def page_spec(rng: random.Random, limits: dict, records: int, hardness: float = 1.0, fullness: float = 1.0) -> PageSpec:
    """From 0 to 1, `hardness`: how much a page is tilted, noisy and pale, and in how many fonts; and `fullness`: how much stands
    on it besides records."""
    few = rng.random() < limits["few"]  # short pages stay in the mix: transcription needs them
    count = rng.randint(1, MAX_TRANSCRIBED) if few else rng.randint((records + 1) // 2, records)
    return PageSpec(
        records=count,
        links=0 if few else rng.randint(0, round(fullness * limits["links"])),
        table=rng.random() < fullness * limits["table"],
        chart=rng.random() < fullness * limits["chart"],
        shapes=rng.randint(0, round(fullness * limits["shapes"])),
        textures=rng.randint(0, limits["textures"]),
        font_size=(13, 14) if count > 45 else (13, 17),
        tilt=2.0 * hardness,
        noise=10.0 * hardness,
        contrast=0.9 - 0.3 * hardness,
        fonts=1 + round(3 * hardness),
    )


def draw_question(rng: random.Random, page: Page, topics: dict[str, float]) -> Question:
    """By the weights of `topics`, among what the page can answer."""
    while True:
        topic = Topic(rng.choices(list(topics), list(topics.values()))[0])
        question = ask(rng, page, topic)
        records = sum(item.kind is Kind.RECORD for item in page.items)
        if question and not (topic is Topic.TRANSCRIPTION and records > MAX_TRANSCRIBED):
            return question


class Pages(Dataset):
    """Item i is the whole batch of step i."""

    def __init__(self, config: dict, phase: dict, tok: Tokenizer, seed: int):
        self.config, self.phase, self.text, self.seed = config, phase, Text(tok), seed
        self.limits = config["pages"] | phase.get("limits", {})
        self.topics = phase.get("topics", config["topics"])

    def __len__(self) -> int:
        return self.phase["steps"]

    def __getitem__(self, step: int) -> Batch | Codes:
        rng = random.Random(f"{self.seed}/{self.phase['name']}/{step}")
        least, most = self.phase["records"]
        # Pages fill, and become harder to read, over the first half of a phase.
        grown = min(1.0, 2 * step / self.phase["steps"])
        records = round(least + (most - least) * grown)
        hardness, fullness = grown if self.phase.get("harden") else 1.0, 1.0
        if self.phase.get("fill") == "geometrically":
            # Looking something up is learnt among two things, and then among ever more.
            records = round(least * (most / least) ** grown)
            fullness = records / most
        specs = [page_spec(rng, self.limits, records, hardness, fullness) for _ in range(self.phase["pages"])]
        if self.phase.get("data") == "codes":
            return self.codes(rng, [imagine(rng, spec) for spec in specs])
        pages = [draw_page(rng, spec) for spec in specs]
        talks = [(g, self.turns(rng, page)) for g, page in enumerate(pages) for _ in range(self.phase["talks"])]
        return make_batch(self.text, pages, talks)

    def turns(self, rng: random.Random, page: Page) -> list[Question]:
        return [draw_question(rng, page, self.topics) for _ in range(self.phase["turns"])]

    def codes(self, rng: random.Random, pages: list[Page]) -> Codes:
        """Every item once or twice, and something that says nothing, in any order."""
        talks = [self.turns(rng, page) for page in pages]
        nothing = (0, [0] * SLOTS)
        rows = []
        for page, turns in zip(pages, talks):
            relevance = imagined_relevance(rng, {item.number for question in turns for item in question.evidence})
            tokens = [(*code(item), relevance(item.number)) for item in page.items for _ in range(rng.randint(1, 2))]
            tokens += [(*nothing, relevance(0)) for _ in range(rng.randint(2, 12))]
            rng.shuffle(tokens)
            rows.append(tokens)
        width = max(map(len, rows))
        rows = [row + [(*nothing, 0.0)] * (width - len(row)) for row in rows]
        kind, slots, relevance = (torch.tensor([[token[part] for token in row] for row in rows]) for part in range(3))
        return Codes(self.text.talk(talks), kind, slots, relevance)


def imagined_relevance(rng: random.Random, evidence: set[int]) -> Callable[[int], float]:
    """An item's number to a relevance: that of an allocator which knows the question, and now and then errs, or, in two of five
    conversations, that of one which does not."""
    if rng.random() < 0.4:
        return lambda number: rng.random()
    strayed = rng.random() * 0.15
    return lambda number: rng.uniform(0.5, 1.0) if number in evidence or rng.random() < strayed else rng.uniform(0.0, 0.1)


def code(item) -> tuple[int, list[int]]:
    """An item's kind, and its key and value as indices into SYMBOLS."""
    symbols = [INDEX[symbol] for symbol in (*item.key, *item.value)]
    return int(item.kind), symbols + [0] * (SLOTS - len(symbols))


def make_batch(text: Text, pages: list[Page], talks: list[tuple[int, list[Question]]]) -> Batch:
    """Conversations of equal length, each about one of the pages."""
    labels = [patch_labels(page) for page in pages]
    questions = [(g, question) for g, turns in talks for question in turns]
    queries = [text.ids(question.query) for _, question in questions]
    evidence = [evidence_patches(pages[g], [item.number for item in question.evidence]) for g, question in questions]
    return Batch(
        pixels=torch.from_numpy(np.stack([np.asarray(page.image) for page in pages])),
        kind=torch.from_numpy(np.stack([label.kind for label in labels])),
        slots=torch.from_numpy(np.stack([label.slots for label in labels])),
        glyphs=torch.from_numpy(np.stack([label.glyphs for label in labels])).long(),
        talk=text.talk([turns for _, turns in talks]),
        page=torch.tensor([g for g, _ in talks]),
        turns=len(talks[0][1]),
        query_ids=text.padded(queries, text.pad),
        query_mask=text.padded([[1] * len(ids) for ids in queries], 0),
        evidence=torch.from_numpy(np.stack(evidence)),
        one_place=torch.tensor([question.topic in ONE_PLACE for _, question in questions]),
    )
