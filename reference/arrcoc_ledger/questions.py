"""Questions about a page, their answers, and the items that one has to have seen to know them."""

import random
from dataclasses import dataclass
from enum import StrEnum

from .page import COLOURS, LETTERS, SHAPES, Item, Kind, Page


class Topic(StrEnum):
    RECORD = "record"
    CELL = "cell"
    SHAPE = "shape"
    BAR = "bar"
    COUNT = "count"
    TRANSCRIPTION = "transcription"
    TWO_HOP = "two_hop"


ONE_PLACE = (Topic.RECORD, Topic.CELL, Topic.SHAPE, Topic.BAR)


@dataclass(frozen=True)
class Question:
    topic: Topic
    query: str
    answer: str
    evidence: tuple[Item, ...]


TEMPLATES = {
    Topic.RECORD: ("What is the value of {key}?", "Which number belongs to {key}?", "Find {key}."),
    Topic.CELL: ("Which number is in row {row}, column {column}?", "What is in the cell at row {row}, column {column}?"),
    Topic.SHAPE: ("Which number is in the {colour} {shape}?", "What is written in the {colour} {shape}?"),
    Topic.BAR: ("How high is the bar {key}?", "Which number is above the bar {key}?"),
    Topic.COUNT: ("How many {shape}s are on the page?", "How many {colour} shapes are on the page?"),
    Topic.TRANSCRIPTION: ("Write down all records.", "List every record on the page."),
    Topic.TWO_HOP: ("Follow {key} to its record: what is the value there?",),
}


def ask(rng: random.Random, page: Page, topic: Topic) -> Question | None:
    """A question on the topic, or none if the page has nothing to ask."""
    template = rng.choice(TEMPLATES[topic])
    of = {kind: [item for item in page.items if item.kind is kind] for kind in Kind}
    if topic is Topic.COUNT:
        return count(rng, template, of[Kind.SHAPE])
    if topic is Topic.TRANSCRIPTION:
        return transcription(template, of[Kind.RECORD])
    if topic is Topic.TWO_HOP:
        return two_hop(rng, template, of[Kind.LINK], of[Kind.RECORD])
    items = of[Kind[topic.name]]
    if not items:
        return None
    item = rng.choice(items)
    first, second = item.key
    names = dict(key=first + second, row=first, column=second, colour=first, shape=second)
    return Question(topic, template.format(**names), item.value, (item,))


def count(rng: random.Random, template: str, shapes: list[Item]) -> Question:
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    wanted = colour if "{colour}" in template else shape
    count = sum(wanted in item.key for item in shapes)
    # To count some, one has to have seen all.
    return Question(Topic.COUNT, template.format(colour=colour, shape=shape), str(count), tuple(shapes))


def transcription(template: str, records: list[Item]) -> Question | None:
    if not records:
        return None
    lines = sorted(records, key=lambda item: ("".join(item.key)))
    answer = ", ".join(f"{''.join(item.key)} {item.value}" for item in lines)
    return Question(Topic.TRANSCRIPTION, template, answer, tuple(records))


def two_hop(rng: random.Random, template: str, links: list[Item], records: list[Item]) -> Question | None:
    by_key = {"".join(item.key): item for item in records}
    links = [link for link in links if link.value in by_key]
    if not links:
        return None
    link = rng.choice(links)
    record = by_key[link.value]
    return Question(Topic.TWO_HOP, template.format(key="".join(link.key)), record.value, (link, record))


def vocabulary_sentences() -> list[str]:
    """Every word that questions and answers use: what the tokenizer is trained on."""
    names = [(c, s) for c in COLOURS for s in SHAPES]
    sentences = []
    for templates in TEMPLATES.values():
        for template in templates:
            for i, (colour, shape) in enumerate(names):
                letter = LETTERS[i % len(LETTERS)]
                sentences.append(template.format(key=letter * 2, row=letter, column=letter, colour=colour, shape=shape))
    return sentences
