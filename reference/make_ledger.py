"""Writes an ARR-Ledger data set: pages as PNG and `ledger.json`, for `arrcoc-serve eval`.

    python make_ledger.py --out DIR [--pages 360] [--records 5,10,15,20,25,30] [--alone] [--controls 60] [--sweep 0]
                          [--seed evaluation]

`--pages` pages at the densities of `--records` with four one-place questions each, with `--alone` of records alone; `--controls` pages for each kind of question where choosing
by the question should not win; `--sweep` pages at each of six further densities, of records alone, from a quarter of a
page's usual contents to more than training ever had. The seed's name is part of every page's: no page of training or validation returns.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

from arrcoc_ledger import ONE_PLACE, Page, PageSpec, Question, Topic, ask, draw_page

DENSITIES = (5, 10, 15, 20, 25, 30)  # records on a page: as many as training has
SWEEP = (4, 12, 25, 45, 70, 110)  # 24 to about 600 characters: 1.5 to 40 per token of 16
QUESTIONS = 4  # about a page
RICH = PageSpec(links=2, table=True, chart=True, shapes=5, textures=1)


def row(image: str, page: Page, question: Question, kind: str, **more) -> dict:
    """`image`, `query` and `answer`, and what evaluation can use besides."""
    found = {"image": image, "query": question.query, "answer": question.answer, "kind": kind, "characters": page.characters}
    if question.topic in ONE_PLACE:
        found["box"] = [round(v) for v in question.evidence[0].box]
    return found | more


class Writer:
    def __init__(self, out: Path, seed: str):
        self.out, self.seed, self.rows, self.pages = out, seed, [], 0
        (out / "images").mkdir(parents=True, exist_ok=True)

    def page(self, spec: PageSpec) -> tuple[str, Page, random.Random]:
        rng = random.Random(f"{self.seed}/{self.pages}")
        page = draw_page(rng, spec)
        name = f"images/page{self.pages:04}.png"
        page.image.save(self.out / name)
        self.pages += 1
        return name, page, rng

    def one_place(self, spec: PageSpec) -> None:
        name, page, rng = self.page(spec)
        topics = [t for t in ONE_PLACE if ask(rng, page, t)]
        # Records, and one of each other kind that the page has.
        asked = [Topic.RECORD] * (QUESTIONS - len(topics) + 1) + [t for t in topics if t is not Topic.RECORD]
        seen = set()
        for topic in asked:
            question = ask(rng, page, topic)
            while question.evidence in seen:
                question = ask(rng, page, topic)
            seen.add(question.evidence)
            self.rows.append(row(name, page, question, topic))

    def records(self, spec: PageSpec) -> None:
        """Two records of a page."""
        name, page, rng = self.page(spec)
        seen = set()
        while len(seen) < 2:
            question = ask(rng, page, Topic.RECORD)
            if question.evidence not in seen:
                seen.add(question.evidence)
                self.rows.append(row(name, page, question, Topic.RECORD))

    def control(self, spec: PageSpec, topic: Topic) -> None:
        name, page, rng = self.page(spec)
        self.rows.append(row(name, page, ask(rng, page, topic), topic))

    def second_question(self, spec: PageSpec) -> None:
        """Two questions about one page; the second names the first, whose tokens it can be answered on."""
        name, page, rng = self.page(spec)
        first = second = ask(rng, page, Topic.RECORD)
        while second.evidence == first.evidence:
            second = ask(rng, page, Topic.RECORD)
        self.rows.append(row(name, page, first, Topic.RECORD))
        self.rows.append(row(name, page, second, "second_question", pair=len(self.rows) - 1))

    def salient(self, spec: PageSpec) -> None:
        """The only thing on the page is what is asked for: plain saliency finds it."""
        name, page, rng = self.page(spec)
        self.rows.append(row(name, page, ask(rng, page, Topic.RECORD), "salient"))


def letters(records: int) -> tuple[int, int]:
    """Dense pages need small letters, in pixels."""
    return (11, 12) if records > 70 else (13, 14) if records >= 45 else (13, 17)


def spec_of(n: int, records: int) -> PageSpec:
    """Every third page has a table, every third a chart."""
    font_size = letters(records)
    if n % 3 == 0:
        spec = replace(RICH, chart=False)
    elif n % 3 == 1:
        spec = replace(RICH, table=False)
    else:
        spec = replace(RICH, table=False, chart=False, textures=2)
    return replace(spec, records=records, font_size=font_size)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=360)
    parser.add_argument("--records", type=numbers, default=DENSITIES, help="numbers of records on a page, between commas")
    parser.add_argument("--alone", action="store_true", help="no tables, charts and shapes beside the records")
    parser.add_argument("--controls", type=int, default=60)
    parser.add_argument("--sweep", type=int, default=0)
    parser.add_argument("--seed", default="evaluation")
    args = parser.parse_args()
    writer = Writer(args.out, args.seed)
    for n in range(args.pages):
        records = args.records[n % len(args.records)]
        alone = PageSpec(records=records, font_size=letters(records))
        writer.one_place(alone if args.alone else spec_of(n // len(args.records), records))
    for n in range(args.controls):
        writer.control(PageSpec(records=20, shapes=6, textures=1), Topic.COUNT)
        writer.control(PageSpec(records=1 + n % 6, shapes=2, textures=1), Topic.TRANSCRIPTION)
        writer.control(spec_of(n, 30), Topic.TWO_HOP)
        writer.second_question(spec_of(n, 30))
        writer.salient(PageSpec(records=1))
    for _ in range(args.sweep):
        for records in SWEEP:
            writer.records(PageSpec(records=records, font_size=letters(records)))
    (args.out / "ledger.json").write_text(json.dumps(writer.rows, indent=1) + "\n")
    print(f"{args.out / 'ledger.json'}: {len(writer.rows)} questions about {writer.pages} pages")


if __name__ == "__main__":
    main()
