"""Times a picture and a question elsewhere: transformers in two precisions, llama.cpp's mtmd in up to three.

    python bench_vision_peers.py --checkpoint ../target/smollm2/smolvlm --work DIR [--family qwen3_vl | qwen3_5]
        [--llama-cpp SOURCE --bin DIR] [--peer transformers-bf16 ...] [--rounds 3] [--threads N] [--out FILE]

One picture, drawn, of 1536 x 1152 pixels (SmolVLM) or 1024 x 1024 (Qwen), and one question of about
twelve tokens; 32 greedy tokens. Every round runs each peer in a process of its own, after one warm-up within
it (llama.cpp does its own). Seconds: `preprocess` (transformers only: llama.cpp does not say), `vision`
(tower and connector, the whole picture), `prefill` (the decoder, up to the first token), `first_token` (the
two together: llama.cpp's by the clock of its log, from the first tile to the first token), `step` (one
token). `peak_rss` is in bytes, `prompt` in tokens.

llama.cpp: SOURCE is its source tree, which has the converter, DIR holds llama-quantize and llama-mtmd-cli.
The tower goes into an mmproj file in F16 or BF16 (Q8_0 for the quantized peers), the decoder into one of the
named precision: SmolVLM's by way of a Llama checkpoint, Qwen's directly. Prints JSON.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stock import pictures

QUESTION = "What can be seen in this picture, and which colours?"
STEPS = 32
TRANSFORMERS = {"transformers-fp32": "float32", "transformers-bf16": "bfloat16"}
LLAMA_CPP = {
    "llama.cpp-bf16": "BF16",
    "llama.cpp-f16": "F16",
    "llama.cpp-q8_0": "Q8_0",
    "llama.cpp-q4_0": "Q4_0",
}


@dataclass(frozen=True)
class Family:
    """A model's shape: what it is asked, and by which names."""

    # Width and height of the picture.
    picture: tuple[int, int]
    # Of the processor's output: what the tower gets, and what the decoder gets beside ids and features.
    tower: tuple[str, ...]
    beside: tuple[str, ...]
    # llama.cpp's precisions, the one that the others are quantized from first; tokens of its context.
    precisions: tuple[str, ...]
    context: int
    # Whether llama.cpp's converter takes the decoder out of the checkpoint by itself.
    whole: bool

    def llama_cpp(self) -> list[str]:
        return [peer for peer, precision in LLAMA_CPP.items() if precision in self.precisions]


FAMILIES = {
    "smolvlm": Family(
        picture=(1536, 1152),
        tower=("pixel_values", "pixel_attention_mask"),
        beside=(),
        precisions=("F16", "Q8_0", "Q4_0"),
        context=4096,
        whole=False,
    ),
    "qwen3_vl": Family(
        picture=(1024, 1024),
        tower=("pixel_values", "image_grid_thw"),
        beside=("image_grid_thw", "mm_token_type_ids"),
        precisions=("BF16", "Q8_0", "Q4_0"),
        context=8192,
        whole=True,
    ),
}
# The same tower without its taps; only the decoder is another.
# transformers reads every tokenizer of this family as Qwen's own; then llama.cpp's converter does not know
# SmolLM2's.
FAMILIES["qwen3_5"] = replace(FAMILIES["qwen3_vl"], precisions=())


def main() -> None:
    args = arguments()
    family = FAMILIES[args.family]
    if args.worker:
        print(json.dumps(in_transformers(args)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    picture = args.work / "photograph.png"
    if not picture.exists():
        pictures.photograph(*family.picture, 0).save(picture)
    rounds = {peer: [] for peer in args.peer or [*TRANSFORMERS, *(family.llama_cpp() if args.bin else [])]}
    for _ in range(args.rounds):
        for peer, figures in rounds.items():
            figures.append(
                run_transformers(args, peer) if peer in TRANSFORMERS else in_llama_cpp(args, peer, picture)
            )
            print(f"{peer}: {figures[-1]}", file=sys.stderr, flush=True)
    medians = {
        peer: {figure: statistics.median(each[figure] for each in figures) for figure in figures[0]}
        for peer, figures in rounds.items()
    }
    content = {
        "question": QUESTION,
        "steps": STEPS,
        "threads": args.threads,
        "median": medians,
        "rounds": rounds,
    }
    text = json.dumps(content, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def run_transformers(args: argparse.Namespace, peer: str) -> dict:
    command = [sys.executable, __file__, "--checkpoint", args.checkpoint, "--work", args.work]
    command += ["--threads", str(args.threads), "--worker", TRANSFORMERS[peer]]
    command += ["--family", args.family]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def in_transformers(args: argparse.Namespace) -> dict:
    """The second of two runs, in this process."""
    import torch
    import transformers
    from stock import conversations, golden

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    family = FAMILIES[args.family]
    model_class, processor_class = classes(args.family)
    processor = processor_class.from_pretrained(args.checkpoint)
    model = model_class.from_pretrained(args.checkpoint, dtype=getattr(torch, args.worker)).eval()
    picture = {"type": "image_url", "image_url": {"url": "photograph.png"}}
    messages = golden.for_transformers([conversations.user(picture, conversations.text(QUESTION))], args.work)

    @torch.no_grad()
    def once() -> dict:
        encoded, preprocess = timed(
            lambda: processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )
        tower = {name: encoded[name] for name in family.tower}
        features, vision = timed(lambda: model.get_image_features(**tower, return_dict=True))
        prompt = {"input_ids": encoded["input_ids"], "mm_encoder_outputs": {"image": features}}
        prompt |= {name: encoded[name] for name in family.beside}
        output, prefill = timed(lambda: model(**prompt, use_cache=True, logits_to_keep=1))
        steps = []
        for _ in range(STEPS):
            token = {"input_ids": output.logits[:, -1:].argmax(-1), "past_key_values": output.past_key_values}
            output, step = timed(lambda token=token: model(**token, use_cache=True))
            steps.append(step)
        figures = {"preprocess": preprocess, "vision": vision, "prefill": prefill}
        figures |= {"first_token": vision + prefill}
        return figures | {"step": statistics.median(steps), "prompt": encoded["input_ids"].shape[1]}

    once()
    return once() | {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def classes(family: str) -> tuple:
    """transformers' model and processor."""
    if family == "smolvlm":
        from stock import checkpoint

        return checkpoint.CLASSES[family][1:3]
    from stock.qwen import checkpoint

    return checkpoint.CLASSES[family][1:3]


def timed(work: Callable) -> tuple:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def in_llama_cpp(args: argparse.Namespace, peer: str, picture: Path) -> dict:
    text, mmproj = converted(args, LLAMA_CPP[peer])
    command = [
        args.bin / "llama-mtmd-cli",
        "-m",
        text,
        "--mmproj",
        mmproj,
        "--image",
        picture,
        "-p",
        QUESTION,
    ]
    command += [
        "-n",
        str(STEPS),
        "--temp",
        "0",
        "--ignore-eos",
        "-t",
        str(args.threads),
        "-c",
        str(FAMILIES[args.family].context),
        "--jinja",
        "--verbosity",
        "4",
    ]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{peer}: llama-mtmd-cli failed:\n{said[-2000:]}")
    milliseconds = [
        float(each) for each in re.findall(r"(?:slice|batch) encod(?:ed|ing done) in (\d+) ms", said)
    ]
    prefill = re.search(r"prompt eval time = +[\d.]+ ms / +(\d+) tokens", said)
    step = re.search(r"[^t] eval time = +([\d.]+) ms / +(\d+) runs", said)
    begin = re.search(rf"^{CLOCK} \w encoding mtmd batch", said, re.MULTILINE)
    end = re.search(rf"^{CLOCK} \w llama_perf_context_print: +eval time", said, re.MULTILINE)
    if not (milliseconds and prefill and step and begin and end):
        raise RuntimeError(f"{peer}: expected timings, found none in:\n{said[-2000:]}")
    steps, vision = float(step[1]) / 1000, sum(milliseconds) / 1000
    first_token = seconds(end) - seconds(begin) - steps
    return {
        "vision": vision,
        "prefill": first_token - vision,
        "first_token": first_token,
        "step": steps / float(step[2]),
        "prompt": int(prefill[1]),
        "peak_rss": usage.ru_maxrss * 1024,
    }


# Minutes, seconds, milliseconds and microseconds since llama.cpp's start, before each line of its log.
CLOCK = r"(\d+)\.(\d+)\.(\d+)\.(\d+)"


def seconds(line: re.Match) -> float:
    minutes, whole, milli, micro = (int(each) for each in line.groups())
    return minutes * 60 + whole + milli / 1e3 + micro / 1e6


def converted(args: argparse.Namespace, precision: str) -> tuple[Path, Path]:
    """The decoder's and the tower's files for llama.cpp, made where they are missing."""
    family = FAMILIES[args.family]
    first = family.precisions[0]
    full, text = args.work / f"text-{first}.gguf", args.work / f"text-{precision}.gguf"
    kind = first.lower() if precision == first else "q8_0"
    mmproj = args.work / f"mmproj-{kind}.gguf"
    convert = [sys.executable, args.llama_cpp / "convert_hf_to_gguf.py"]
    if not (text.exists() or full.exists()):
        decoder = args.checkpoint
        if not family.whole:
            decoder = args.work / "decoder"
            save_decoder(args.checkpoint, decoder)
        quietly([*convert, decoder, "--outtype", first.lower(), "--outfile", full])
    if not text.exists():
        quietly([args.bin / "llama-quantize", full, text, precision])
    if not mmproj.exists():
        quietly([*convert, args.checkpoint, "--mmproj", "--outtype", kind, "--outfile", mmproj])
    return text, mmproj


def save_decoder(checkpoint_dir: Path, directory: Path) -> None:
    """SmolVLM's text model as a Llama checkpoint: the converter does not take it out by itself."""
    import torch
    from stock import checkpoint
    from transformers import LlamaForCausalLM

    _, model_class, processor_class, _ = checkpoint.CLASSES["smolvlm"]
    whole = model_class.from_pretrained(checkpoint_dir, dtype=torch.bfloat16)
    config = whole.config.text_config
    config.tie_word_embeddings = whole.config.tie_word_embeddings
    decoder = LlamaForCausalLM(config).to(torch.bfloat16)
    decoder.model.load_state_dict(whole.model.text_model.state_dict())
    decoder.lm_head.load_state_dict(whole.lm_head.state_dict())
    decoder.save_pretrained(directory)
    processor = processor_class.from_pretrained(checkpoint_dir)
    processor.tokenizer.chat_template = processor.chat_template
    processor.tokenizer.save_pretrained(directory)


def quietly(command: list) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, default="smolvlm")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, help="its source tree")
    parser.add_argument("--bin", type=Path, help="where its programs are")
    parser.add_argument("--peer", action="append", choices=[*TRANSFORMERS, *LLAMA_CPP])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
