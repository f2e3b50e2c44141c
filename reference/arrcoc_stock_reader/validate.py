"""Held-out answers by density, with all visual tokens: the same pages and questions every time."""

import random
from collections.abc import Iterator

import torch
from arrcoc_ledger import SIZE, PageSpec, Topic, draw_page
from make_ledger import letters, spec_of
from torch import Tensor

from .data import Batch, choose, crop, make_batch
from .learner import Learner

# Records alone, and pages as the composite's evaluation has them: with tables, charts, shapes and texture.
DENSITIES = {f"records-{n}": n for n in (4, 12, 25, 45)} | {f"rich-{n}": n for n in (5, 15, 30)}
QUESTIONS = 6  # about a page


def held_out(learner: Learner, name: str, pages: int, topics: dict[str, float]) -> Iterator[Batch]:
    """Batches of up to eight pages of a density."""
    rng = random.Random(f"validation/{name}")
    records = DENSITIES[name]
    for start in range(0, pages, 8):
        parts = []
        for number in range(start, min(start + 8, pages)):
            sparse = PageSpec(records=records, font_size=letters(records))
            page = draw_page(rng, sparse if name.startswith("records") else spec_of(number, records))
            parts.append(crop(page, 0, 0, SIZE, SIZE))
        yield make_batch(
            rng, learner.text, parts, [choose(rng, part.items, topics, QUESTIONS) for part in parts]
        )


@torch.no_grad()
def validate(learner: Learner, topics: dict[str, float], pages: int = 16) -> dict:
    learner.eval()
    result: dict = {"exact": {}, "read": {}, "topics": {}}
    by_topic: dict[str, list[bool]] = {str(topic): [] for topic in topics}
    with torch.autocast("cpu", torch.bfloat16):
        for name in DENSITIES:
            found, read = [], []
            for batch in held_out(learner, name, pages, topics):
                rows, taps = learner.see(batch.pixels)
                read.append(learner.read(rows, batch)[1])
                _, _, right = learner.answer(rows, taps, batch)
                found.append(right)
                for asked, row in zip(batch.topics, right.tolist(), strict=True):
                    for topic, good in zip(asked, row, strict=True):
                        by_topic[Topic(topic)].append(good)
            result["exact"][name], result["read"][name] = share(found), share(read)
    result["topics"] = {topic: round(sum(v) / max(1, len(v)), 4) for topic, v in by_topic.items()}
    learner.train()
    return result


def share(parts: list[Tensor]) -> float:
    return round(torch.cat([part.float().flatten() for part in parts]).mean().item(), 4)
