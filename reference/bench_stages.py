"""Times the stages of a checkpoint in PyTorch: fp32 or bf16, SDPA attention, batch of one.

    python bench_stages.py --checkpoint DIR [--dtype float32] [--device cpu] [--size 1024] [--tier 256] [--query-length 12] [--threads 2] [--repeats 3]

Below 32 bits by autocast: products, with weights cast once, and attention.

Prints JSON: median seconds per stage after one warm-up, and the process's peak resident memory, which includes
reading the checkpoint. Pixels and question are random; the time does not depend on them.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache

from arrcoc_reference import ArrCocOvis, Prompter

DECODE_STEPS = 16


@torch.inference_mode()
def bench(
    model: ArrCocOvis, device: str, size: int, budget: int, query_length: int, repeats: int
) -> dict[str, float]:
    model.to(device)
    seconds: dict[str, float] = {}

    def stage(name: str, run: Callable):
        result, times = run(), []
        for _ in range(repeats):
            start = now(device)
            result = run()
            times.append(now(device) - start)
        seconds[name] = statistics.median(times)
        return result

    tier = torch.tensor([model.budgets.index(budget)], device=device)  # [1]
    query_ids = torch.randint(0, 256, (1, query_length), device=device)  # [1, Q]
    query_mask = torch.ones_like(query_ids)
    pixel_values = torch.randn(1, 3, size, size, device=device)

    features = stage("vision_encoder", lambda: model.vision_encoder(pixel_values))  # [1, P, C]
    relevance = stage("allocator", lambda: model.allocate(features, query_ids, query_mask)).relevance  # [1, P]
    tokens, positions, _ = stage("compressor", lambda: model.compressor(features, relevance, budget))  # [1, T, D]
    refined = stage("refiner", lambda: model.refiner(tokens, positions))  # [1, T, D]
    visual = stage("quality_adapter", lambda: model.quality_adapter(refined, tier))  # [1, T, H]

    # The question's ids are put at the end of the template's: only their number matters.
    prompter = Prompter(model.directory, model.config["image_token_id"])
    prompt_ids = prompter.expand(torch.cat([prompter.prompt_ids(""), query_ids.cpu()], dim=1), budget).to(device)  # [1, S]
    embeds = model.prompt_embeds(prompt_ids, visual)  # [1, S, H]

    def prefill() -> DynamicCache:
        cache = DynamicCache(config=model.llm.config)
        model.llm(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    cache = stage("prefill", prefill)
    seconds["decode_step"] = decode_step(model, cache, embeds[:, -1:], device)
    return seconds | {"prompt_tokens": prompt_ids.shape[1]}


def now(device: str) -> float:
    """Seconds, when all that a GPU was asked for is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def decode_step(model: ArrCocOvis, cache: DynamicCache, embeds: Tensor, device: str) -> float:
    """Median over steps that each feed one embedding [1, 1, H] after the cache's positions."""
    times = []
    for _ in range(1 + DECODE_STEPS):
        start = now(device)
        model.llm(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
        times.append(now(device) - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", type=int, help="image size (default: the checkpoint's native one)")
    parser.add_argument("--tier", type=int, default=256, help="visual tokens")
    parser.add_argument("--query-length", type=int, default=12, help="tokens of the question")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = ArrCocOvis.from_pretrained(args.checkpoint)
    size = args.size or model.config["vision_config"]["image_size"]
    dtype = getattr(torch, args.dtype)
    with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
        seconds = bench(model, args.device, size, args.tier, args.query_length, args.repeats)
    report = {
        "torch": torch.__version__,
        "threads": args.threads,
        "size": size,
        "tier": args.tier,
        "query_length": args.query_length,
        "prompt_tokens": seconds.pop("prompt_tokens"),
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
