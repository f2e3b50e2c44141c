"""Perplexity of a text: transformers in fp32, and llama.cpp in Q8_0 and Q4_0, over the same windows of
tokens.

    python -m smollm2.perplexity --llama ../target/smollm2/llama --out ../target/smollm2/perplexity.json
        [--gguf Q8_0=FILE --gguf Q4_0=FILE] [TEXT ...]

The texts are put one behind the other, tokenised once, and cut into windows of 512 tokens; what is left over
at the end is not used. Every window is scored alone: all its tokens after the first. The JSON holds the
windows' ids and, for every model, the mean negative log-likelihood of a token, in nats, its exponential, and
the sum of each window. What --out holds of the same windows is kept and not computed again; without TEXT they
are the windows. llama.cpp needs requirements-peers.txt. Run it in `reference/`.
"""

import argparse
import json
import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 512

# Log-likelihoods of the tokens after the first, [511].
Score = Callable[[list[int]], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama", type=Path, required=True, help="the checkpoint")
    parser.add_argument(
        "--gguf", action="append", default=[], metavar="NAME=FILE", help="the same weights for llama.cpp"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    before = json.loads(args.out.read_text()) if args.out.exists() else None
    if args.texts:
        content = windows_of(args.texts, args.llama)
        if before and before["windows"] == content["windows"]:
            content["models"] = before["models"]
    elif before:
        content = before
    else:
        parser.error("expected texts, or windows in --out")
    windows = content["windows"]
    makers = {"transformers fp32": lambda: in_transformers(args.llama)}
    for name, _, file in (each.partition("=") for each in args.gguf):
        makers[f"llama.cpp {name}"] = lambda file=file: in_llama_cpp(file)
    for name, make in makers.items():
        if name in content["models"]:
            continue
        score = make()
        sums = [-score(window).double().sum().item() for window in windows]
        mean = sum(sums) / (len(windows) * (WINDOW - 1))
        content["models"][name] = {"nll": mean, "perplexity": math.exp(mean), "sums": sums}
        print(f"{name}: {math.exp(mean):.4f} over {len(windows) * (WINDOW - 1)} tokens", flush=True)
    content["versions"] = {"transformers": transformers.__version__, "torch": torch.__version__} | binding()
    args.out.write_text(json.dumps(content) + "\n")


def windows_of(texts: list[Path], llama: Path) -> dict:
    text = "\n".join(file.read_text() for file in texts)
    ids = AutoTokenizer.from_pretrained(llama)(text, add_special_tokens=False)["input_ids"]
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
    return {"texts": [file.name for file in texts], "window": WINDOW, "models": {}, "windows": windows}


def binding() -> dict[str, str]:
    try:
        return {"llama-cpp-python": version("llama-cpp-python")}
    except PackageNotFoundError:
        return {}


def in_transformers(checkpoint: Path) -> Score:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @torch.no_grad()
    def score(window: list[int]) -> torch.Tensor:
        ids = torch.tensor([window])  # [1, 512]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]  # [511, V]
        return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]

    return score


def in_llama_cpp(file: str) -> Score:
    from llama_cpp import Llama

    llama = Llama(file, n_ctx=WINDOW, n_batch=WINDOW, logits_all=True, verbose=False)

    def score(window: list[int]) -> torch.Tensor:
        llama.reset()
        llama.eval(window)
        logits = torch.from_numpy(llama.scores[: WINDOW - 1])  # [511, V]
        return logits.log_softmax(-1).gather(1, torch.tensor(window[1:])[:, None])[:, 0]

    return score


if __name__ == "__main__":
    main()
