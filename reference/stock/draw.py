"""Draws checkpoints of stock families and writes what transformers makes of them.

    python -m stock.draw --family smolvlm --seed 3 --out DIR
    python -m stock.draw --families smolvlm,idefics3 --seeds 0..19 --out DIR
    python -m stock.draw --fixtures --out ../tests/fixtures/stock     (the committed ones, one a family)
    python -m stock.draw --family smolvlm --preset 256m --dtype bfloat16 --out DIR
    python -m stock.draw --families qwen3_vl,qwen3_5 --widths --out DIR     (as wide as released ones)
    python -m stock.draw ... --compare DIR     (makes them again, and fails where those in DIR differ)

Run it in `reference/`. README.md says what the files hold.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import PIL
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from . import conversations, families, golden, pictures, qwen, shapes, widths

FORMAT = "arrcoc-stock-goldens 1"
TRIES = 60
# The seeds of the committed ones: small shapes, several heads to a key; some have old spellings, one has a
# tokenizer of SentencePiece's kind.
FIXTURES = {"smolvlm": 103, "idefics3": 234, "qwen3_vl": 2527, "qwen2_5_vl": 1963, "qwen3_5": 15387}
# Most rows of a picture in those of Qwen, whose pixels would fill most of the files.
FIXTURE_ROWS = 16
# As in make_goldens.py: how far matrix products of other CPUs stray.
TOLERANCE = 2e-5


class IllPosed(Exception):
    """No conversation was found whose greedy answer rounding cannot change."""


@dataclass
class Wanted:
    """One checkpoint to make: its directory's name, the conversations, the vocabulary where it is given."""

    name: str
    drawn: families.Drawn
    conversations: list[str]
    vocabulary: int | None = None
    # How many of the 64 steps keep their logits.
    steps: int = golden.STEPS
    # How many texts are tried for an answer that wanders and that rounding cannot change.
    tries: int = TRIES


def make(wanted: Wanted, directory: Path) -> None:
    """One checkpoint and its goldens, in a new directory."""
    drawn = wanted.drawn
    directory.mkdir(parents=True)
    model_files = families.write(drawn, directory / "checkpoint", wanted.vocabulary)
    draw_pictures(drawn, directory / "images", conversations.LARGE if "large" in wanted.conversations else {})
    model, processor = families.load(drawn.family, model_files)
    goldens = [ask(model, processor, name, wanted, directory) for name in wanted.conversations]
    for each in goldens:
        each.tensors["step_logits"] = each.tensors["step_logits"][: wanted.steps].clone()
    shown = json.dumps([each.conversation.messages for each in goldens])
    for file in (directory / "images").iterdir():
        if file.name not in shown:
            file.unlink()
    tensors = {
        f"{each.conversation.name}.{kind}": tensor
        for each in goldens
        for kind, tensor in each.tensors.items()
    }
    save_file(tensors, directory / "cases.safetensors", metadata={"format": FORMAT})
    versions = {module.__name__: module.__version__ for module in (torch, transformers, tokenizers, PIL)}
    content = {
        "format": FORMAT,
        "versions": versions,
        "drawn": drawn.facts(),
        "cases": [each.entry() for each in goldens],
    }
    (directory / "cases.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    for file in directory.rglob("*.safetensors"):
        # The library makes them for its user alone.
        file.chmod(0o644)


def draw_pictures(drawn: families.Drawn, directory: Path, more: dict) -> None:
    directory.mkdir()
    shown = [*sorted(conversations.pictures(drawn.family).items()), *more.items()]
    for number, (name, (width, height, mode)) in enumerate(shown):
        pictures.picture(width, height, mode, 1000 * drawn.seed + number).save(
            directory / f"{name}.png", optimize=True
        )


def ask(model, processor, name: str, wanted: Wanted, directory: Path) -> golden.Golden:
    """The named conversation, with the first texts whose answer wanders and cannot be changed by rounding."""
    drawn, tries = wanted.drawn, wanted.tries
    chance = random.Random(f"{name} {drawn.family} {drawn.seed}")
    dull = None
    for _ in range(tries):
        conversation = conversations.conversation(name, drawn.family, chance)
        found = golden.answer(model, processor, conversation, directory)
        if found is None:
            continue
        if golden.wanders(found.greedy):
            return found
        dull = dull or found
    if dull is None:
        raise IllPosed(
            f"{drawn.family} {drawn.seed}: {name}: expected a margin of {golden.MIN_MARGIN} in {tries} tries"
        )
    return dull


def compare(new: Path, old: Path) -> list[str]:
    """What differs between two directories of goldens."""
    differences = []
    ours, theirs = (json.loads((directory / "cases.json").read_text()) for directory in (new, old))
    for key in ("format", "drawn"):
        if ours[key] != theirs[key]:
            differences.append(f"cases.json: {key} differs")
    if [case["name"] for case in ours["cases"]] != [case["name"] for case in theirs["cases"]]:
        return [*differences, "cases.json: other cases"]
    for one, other in zip(ours["cases"], theirs["cases"]):
        for key in ("messages", "input_ids", "greedy"):
            if one[key] != other[key]:
                differences.append(f"{one['name']}: {key} differ")
    differences += files_that_differ(new, old)
    a, b = load_file(new / "cases.safetensors"), load_file(old / "cases.safetensors")
    if a.keys() != b.keys():
        return [*differences, f"cases.safetensors: other tensors: {sorted(a.keys() ^ b.keys())}"]
    for name in sorted(a):
        if a[name].shape != b[name].shape:
            differences.append(f"{name}: expected shape {list(b[name].shape)}, found {list(a[name].shape)}")
            continue
        worst = ((a[name] - b[name]).abs().max() / b[name].abs().max()).item()
        if not worst <= TOLERANCE:
            differences.append(f"{name}: differs by {worst:.1e}, more than {TOLERANCE:.0e}")
    return differences


def files_that_differ(new: Path, old: Path) -> list[str]:
    """Files of the checkpoint and pictures, byte by byte."""
    listed = [
        {str(file.relative_to(at)) for folder in ("checkpoint", "images") for file in (at / folder).iterdir()}
        for at in (new, old)
    ]
    differences = [f"{name}: only in one of them" for name in sorted(listed[0] ^ listed[1])]
    common = sorted(listed[0] & listed[1])
    return differences + [
        f"{name}: other bytes" for name in common if (new / name).read_bytes() != (old / name).read_bytes()
    ]


def wanted(args: argparse.Namespace) -> list[Wanted]:
    """The checkpoints that the command line asks for."""
    if args.fixtures:
        plain = {"hub_layout": False, "shards": False}
        drawn = [replace(families.draw(family, seed), **plain) for family, seed in FIXTURES.items()]
        for each in drawn:
            if each.family in qwen.shapes.FAMILIES:
                each.max_pixels = min(each.max_pixels, FIXTURE_ROWS * each.factor**2)
        return [Wanted(each.family, each, conversations.FEW, steps=16) for each in drawn]
    if args.preset:
        few = ["system", "photograph", "turns"]
        drawn = [shapes.real_256m(family, args.seed, args.dtype) for family in args.asked]
        return [Wanted(f"{each.family}-{args.preset}", each, few, vocabulary=49280) for each in drawn]
    if args.widths:
        drawn = [widths.draw(family, args.seed) for family in args.asked]
        few = widths.CONVERSATIONS
        return [Wanted(f"{each.family}-widths", each, few, tries=widths.TRIES) for each in drawn]
    first, last = (int(end) for end in args.seeds.split("..")) if args.seeds else (args.seed, args.seed)
    drawn = [families.draw(family, seed) for seed in range(first, last + 1) for family in args.asked]
    return [
        Wanted(f"{each.family}-{each.seed}", each, list(conversations.makers(each.family))) for each in drawn
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=families.FAMILIES, default=families.FAMILIES[0])
    parser.add_argument("--families", help="several, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", help="FIRST..LAST, both included")
    parser.add_argument("--fixtures", action="store_true", help="the committed ones")
    parser.add_argument("--preset", choices=["256m"], help="a real checkpoint's shape instead of a drawn one")
    parser.add_argument("--widths", action="store_true", help="a released checkpoint's widths, few layers")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the preset")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path)
    args = parser.parse_args()
    args.asked = args.families.split(",") if args.families else [args.family]
    if args.preset and not set(args.asked) <= set(shapes.FAMILIES):
        parser.error(f"expected a family of {', '.join(shapes.FAMILIES)} for --preset {args.preset}")
    if (args.out is None) == (args.compare is None):
        parser.error("expected one of --out and --compare")
    return args


def main() -> int:
    args = arguments()
    if not args.preset and not args.widths:
        # The same bytes on every run. What has a real size takes all threads.
        torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failed = False
    for each in wanted(args):
        if args.out:
            # Complete or not there: it is made beside its place.
            unfinished = args.out / f".{each.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(each, unfinished)
            shutil.rmtree(args.out / each.name, ignore_errors=True)
            unfinished.rename(args.out / each.name)
            print(args.out / each.name, flush=True)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            make(each, Path(scratch) / each.name)
            differences = compare(Path(scratch) / each.name, args.compare / each.name)
        print(f"{each.name}: {'; '.join(differences) or 'the same'}", flush=True)
        failed |= bool(differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
