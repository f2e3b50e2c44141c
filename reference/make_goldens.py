"""Writes goldens (every stage's inputs and outputs, from PyTorch), or recomputes and compares them.

    python make_goldens.py --checkpoint DIR --image PATH --question TEXT --out DIR [--sizes 512,640] [--tiers 64,400]
    python make_goldens.py --checkpoint DIR --image PATH --compare GOLDENS_DIR

README.md lists what the files hold. Exit code 1: a comparison failed; 2: this checkpoint, image and question make
an ill-posed golden, see `GoldenError`.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy
import PIL
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from arrcoc_reference import ArrCocOvis, Preprocessor, Prompter
from arrcoc_reference.model import weight_files

FORMAT = "arrcoc-goldens 1"
STEPS = 64
# Of pixel_values only every 8th row and column is kept: the whole follows from `resized_image`, at a quarter
# the size.
STRIDE = 8
# Relevances that decide which patches are taken, or in which order, must differ by more than fp32 noise:
# swapped tokens would be a different prompt, and parity of everything after them would mean nothing. Likewise
# the two best logits of every greedy step. Measured on the tiny preset, against fp64 as between AVX-512, AVX2
# and SSE kernels: differences of neighbouring relevances move by up to 6e-7, logits by up to 5e-7.
MIN_RELEVANCE_GAP = 2e-6
MIN_LOGIT_MARGIN = 1e-5
# Largest max|a-b| / max|b| in a comparison. Not 0: matrix products sum in the order that suits the CPU's
# vector width and threads, and that alone, AVX-512 against AVX2 and SSE kernels, moved results by up to 9e-6
# (the margins; activations by up to 3e-6).
TOLERANCE = 2e-5

Tensors = dict[str, Tensor]


class IllPosed(Exception):
    """The inputs leave an order or a choice to rounding noise. Another seed or question will do."""


class Mismatch(Exception):
    """The goldens to compare with are of something else."""


@torch.no_grad()
def single(model: ArrCocOvis, image: Image.Image, size: int, question: str, tiers: list[int]) -> Tensors:
    """One image and one question, at every tier, down to 64 greedy tokens."""
    prompter, preprocessor = tools(model)
    pixel_values, valid = preprocessor(image, size)  # [1, 3, size, size], [1, P]
    query_ids = prompter.query_ids(question)  # [1, Q]
    out = {"resized_image": preprocessor.resized(image, size), "prompt_ids": prompter.prompt_ids(question)}
    out |= score(model, pixel_values, valid, query_ids, torch.ones_like(query_ids))
    out["tier"] = model.choose_tier(out["tier_logits"], valid)  # [1]
    check_gap(model, out["masked_relevance"], max(tiers), f"size {size}")
    for budget in tiers:
        tier = torch.tensor([model.budgets.index(budget)])  # [1]
        stages = compress(model, out["image_features"], out["masked_relevance"], budget, tier)
        input_ids = prompter.expand(out["prompt_ids"], budget)  # [1, S]
        embeds = model.prompt_embeds(input_ids, stages["visual_embeds"])  # [1, S, H]
        stages |= answer(model, embeds, f"size {size}, tier {budget}")
        out |= {f"tier{budget}.{name}": tensor for name, tensor in stages.items()}
    return out


@torch.no_grad()
def batch(model: ArrCocOvis, image: Image.Image, size: int, question: str, budget: int) -> Tensors:
    """Two images (the second is the upper two thirds of the first, so it has padding) with questions of different
    length, and adapter heads that differ by row."""
    prompter, preprocessor = tools(model)
    images = [image, image.crop((0, 0, image.width, image.height * 2 // 3))]
    pixels, valids = zip(*(preprocessor(i, size) for i in images))
    long, short = (prompter.query_ids(text)[0] for text in (question, question.split()[0]))  # [Q], [fewer]
    query_ids = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)  # [2, Q]
    query_mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(long), torch.ones_like(short)], batch_first=True)
    out = {f"resized_image.{i}": preprocessor.resized(image, size) for i, image in enumerate(images)}
    out |= score(model, torch.cat(pixels), torch.cat(valids), query_ids, query_mask)
    check_gap(model, out["masked_relevance"], budget, "batch")
    tier = torch.tensor([model.budgets.index(budget), len(model.budgets) - 1])  # [2]
    return out | compress(model, out["image_features"], out["masked_relevance"], budget, tier)


def tools(model: ArrCocOvis) -> tuple[Prompter, Preprocessor]:
    patch_size = model.config["vision_config"]["patch_size"]
    return Prompter(model.directory, model.config["image_token_id"]), Preprocessor(model.directory, patch_size)


def score(model: ArrCocOvis, pixel_values: Tensor, valid: Tensor, query_ids: Tensor, query_mask: Tensor) -> Tensors:
    image_features = model.vision_encoder(pixel_values)  # [B, P, C]
    allocation = model.allocate(image_features, query_ids, query_mask)
    return {
        f"pixel_values.stride{STRIDE}": pixel_values[:, :, ::STRIDE, ::STRIDE],
        "valid": valid.to(torch.uint8),
        "image_features": image_features,
        "query_ids": query_ids,
        "query_mask": query_mask,
        "query_embeds": model.embedding(query_ids),
        **allocation._asdict(),
        "masked_relevance": model.mask_relevance(allocation.relevance, valid),
    }


def compress(model: ArrCocOvis, features: Tensor, relevance: Tensor, budget: int, tier: Tensor) -> Tensors:
    tokens, positions, indices = model.compressor(features, relevance, budget)  # [B, T, D], [B, T, 2], [B, T]
    refined = model.refiner(tokens, positions)  # [B, T, D]
    return {
        "visual_tokens": tokens,
        "token_positions": positions,
        "token_indices": indices,
        "refined_tokens": refined,
        "adapter_tier": tier,
        "visual_embeds": model.quality_adapter(refined, tier),
    }


def answer(model: ArrCocOvis, embeds: Tensor, where: str) -> Tensors:
    """64 greedy tokens, past any end of text: ids, logprobs and margin of each, and the logits of the first."""
    ids, logits = model.greedy(embeds, STEPS)  # [N], [N, V]
    best, second = logits.topk(2).values.unbind(-1)  # [N], [N]
    margins = best - second  # [N]
    if (narrow := margins.min().item()) <= MIN_LOGIT_MARGIN:
        raise IllPosed(f"{where}: the two best logits of some step differ by {narrow:.1e} only")
    logprobs = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]  # [N]
    return {
        "prefill_logits": logits[:1],
        "greedy_ids": ids,
        "greedy_logprobs": logprobs,
        "greedy_margins": margins,
    }


def check_gap(model: ArrCocOvis, masked_relevance: Tensor, budget: int, where: str) -> None:
    fine = budget - model.compressor.gist_grid**2
    ranked = masked_relevance.sort(dim=-1, descending=True).values[:, : fine + 1]  # [B, fine + 1]: the last is left out
    gaps = (ranked[:, :-1] - ranked[:, 1:])[ranked[:, :-1] >= 0]  # padding may tie: then the index decides
    if (narrow := gaps.min().item()) <= MIN_RELEVANCE_GAP:
        raise IllPosed(f"{where}: two relevances that decide the order of tokens differ by {narrow:.1e} only")


def make(
    checkpoint: Path, image_path: Path, question: str, sizes: list[int], tiers: list[int], with_batch: bool
) -> dict[str, Tensors]:
    """Golden files by name. The native size gets all tiers, other sizes the smaller half and batches the smallest:
    the more tokens of the more patches are ranked, the harder it is to find a well-posed case."""
    model = ArrCocOvis.from_pretrained(checkpoint)
    image = Image.open(image_path).convert("RGB")
    native = model.config["vision_config"]["image_size"]
    tiers = sorted(tiers or model.budgets)
    files = {"batch": batch(model, image, native, question, tiers[0])} if with_batch else {}
    for size in sizes or [native]:
        chosen = tiers if size == native else tiers[: (len(tiers) + 1) // 2]
        files[f"size{size}"] = single(model, image, size, question, chosen)
    return files


def metadata(args: argparse.Namespace) -> dict[str, str]:
    return {
        "format": FORMAT,
        "checkpoint_sha256": sha256(*sorted(set(weight_files(args.checkpoint).values()))),
        "image": args.image.name,
        "image_sha256": sha256(args.image),
        "question": args.question,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "pillow": PIL.__version__,
        "numpy": numpy.__version__,
    }


def sha256(*paths: Path) -> str:
    """Of the files' bytes, one after another: of model.safetensors, or of the shards in order of name."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def write(args: argparse.Namespace) -> None:
    files = make(args.checkpoint, args.image, args.question, args.sizes, args.tiers, not args.no_batch)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        path = args.out / f"{name}.safetensors"
        save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata=metadata(args))
        print(f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1e6:.1f} MB")


def compare(args: argparse.Namespace) -> bool:
    """Prints a line per tensor; true if all agree."""
    golden, recorded = {}, {}
    for path in sorted(args.compare.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            recorded = file.metadata()
            golden[path.stem] = {name: file.get_tensor(name) for name in file.keys()}
    if recorded.get("format") != FORMAT:
        raise Mismatch(f"{args.compare}: expected goldens of format {FORMAT!r}, found {recorded.get('format')!r}")
    args.question = recorded["question"]
    for key, value in metadata(args).items():
        if value != recorded[key]:
            print(f"note: {key}: the goldens were made with {recorded[key]}, this is {value}")
            if key.endswith("sha256"):
                raise Mismatch(f"{key}: expected the file that the goldens were made from, found another")
    sizes = sorted(int(name.removeprefix("size")) for name in golden if name.startswith("size"))
    names = {name for tensors in golden.values() for name in tensors if name.endswith(".visual_tokens")}
    tiers = sorted(int(name.split(".")[0].removeprefix("tier")) for name in names)

    fresh = make(args.checkpoint, args.image, args.question, sizes, tiers, "batch" in golden)
    ok = True
    for file in sorted(golden.keys() | fresh.keys()):
        for name in sorted(golden.get(file, {}).keys() | fresh.get(file, {}).keys()):
            verdict = difference(fresh.get(file, {}).get(name), golden.get(file, {}).get(name))
            good = isinstance(verdict, float) and verdict <= TOLERANCE
            ok &= good
            words = verdict if isinstance(verdict, str) else f"{verdict:.1e}"
            print(f"{'ok  ' if good else 'FAIL'} {file} {name} {words}")
    return ok


def difference(fresh: Tensor | None, golden: Tensor | None) -> float | str:
    """max|a-b| / max|b|, or words where that makes no sense. Integers are equal or not."""
    if fresh is None or golden is None:
        return "in the goldens only" if fresh is None else "not in the goldens"
    if fresh.shape != golden.shape or fresh.dtype != golden.dtype:
        return f"{fresh.dtype} {list(fresh.shape)}, in the goldens {golden.dtype} {list(golden.shape)}"
    if not fresh.is_floating_point():
        return 0.0 if fresh.equal(golden) else f"{int((fresh != golden).sum())} of {fresh.numel()} integers differ"
    return float((fresh - golden).abs().max() / golden.abs().max().clamp(min=1e-30))


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--question")
    parser.add_argument("--sizes", type=numbers, help="image sizes (default: the checkpoint's native one)")
    parser.add_argument("--tiers", type=numbers, help="token budgets (default: all of the checkpoint's)")
    parser.add_argument("--no-batch", action="store_true", help="leave batch.safetensors out (real widths are large)")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="write goldens to this folder")
    action.add_argument("--compare", type=Path, help="compare with the goldens of this folder")
    args = parser.parse_args()
    if args.out and not args.question:
        parser.error("--out needs a --question")
    try:
        if args.out:
            write(args)
        elif not compare(args):
            return 1
    except Mismatch as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except IllPosed as error:
        print(f"error: {error}. Use another --seed for the checkpoint, or another --question.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
