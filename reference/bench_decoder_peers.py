"""Times a decoder of Qwen3-0.6B's shape elsewhere: onnxruntime-genai in int4; llama.cpp in F16, BF16, Q8_0 and Q4_0.

    python bench_decoder_peers.py --work DIR [--checkpoint DIR] [--peer genai-int4 ...] [--rounds 3] [--out FILE]

The weights are random; the time does not depend on them. Every round measures each peer in a process of its own, after
one warm-up: the prefill of a prompt of 256 ids up to the first token, then 64 greedy steps of one token each, of which
the median counts. What DIR already holds, the checkpoint and the models made of it, is used again: to alternate with
other programs, ask for one round at a time.

Prints a table, and writes JSON: per peer the seconds of each round, the model's bytes and the process's peak memory.
Needs requirements-peers.txt.
"""

import argparse
import ctypes
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

PROMPT, STEPS, CONTEXT = 256, 64, 512
VOCABULARY = 151936
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Peer:
    package: str
    precision: str
    prepare: Callable[[Path, Path, int], None]
    """Makes the model at the second path out of the checkpoint at the first, with so many threads."""
    generate: Callable[[Path, list[int], int], Iterator[int]]
    """Loads the model at the path; then, round after round: -1 when ready, the id after the prompt, one id per step."""
    options: str = ""


def prepare_checkpoint(checkpoint: Path) -> None:
    """A random Qwen3ForCausalLM in bfloat16, and a tokenizer of bytes for those who do not load a model without one."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(list(SPECIAL_TOKENS))
    end = tok.token_to_id("<|endoftext|>")
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, intermediate_size=3072, tie_word_embeddings=True, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6, dtype="bfloat16",
        bos_token_id=end, eos_token_id=tok.token_to_id("<|im_end|>"), pad_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(checkpoint)
    PreTrainedTokenizerFast(
        tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(checkpoint)


def prepare_genai(options: str) -> Callable[[Path, Path, int], None]:
    def prepare(checkpoint: Path, model: Path, threads: int) -> None:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        builder += ["-i", str(checkpoint), "-o", str(model), "-p", "int4", "-e", "cpu", "-c", str(model) + ".cache"]
        builder += ["--extra_options", *options.split()] if options else []
        built = subprocess.run(builder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if built.returncode != 0:
            raise RuntimeError(f"onnxruntime-genai's builder failed: {built.stderr[-2000:]}")
        shutil.rmtree(str(model) + ".cache", ignore_errors=True)

    return prepare


def generate_genai(model: Path, prompt: list[int], threads: int) -> Iterator[int]:
    import onnxruntime_genai as og

    config = og.Config(str(model))
    session = {"session_options": {"intra_op_num_threads": threads}}
    config.overlay(json.dumps({"model": {"decoder": session}}))
    loaded = og.Model(config)
    while True:
        params = og.GeneratorParams(loaded)
        # A minimum, so that no end of text ends the round.
        params.set_search_options(max_length=CONTEXT, min_length=CONTEXT, do_sample=False)
        generator = og.Generator(loaded, params)
        yield -1
        generator.append_tokens(prompt)
        for _ in range(1 + STEPS):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


def prepare_gguf(checkpoint: Path, model: Path, threads: int) -> None:
    """F16, vectors in F32, as llama.cpp's own conversion writes it, but without a tokenizer."""
    import gguf
    import numpy as np
    import torch
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(model, "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():
                if name == "lm_head.weight" and config["tie_word_embeddings"]:
                    continue
                tensor = tensors.get_tensor(name).to(torch.float32).numpy()
                array = tensor.astype(np.float16) if tensor.ndim > 1 else tensor
                writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quiet_llama() -> ModuleType:
    import llama_cpp
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    return llama_cpp


def prepare_quantized(file_type: str) -> Callable[[Path, Path, int], None]:
    """llama.cpp's own quantization of the F16 file, with its own choice for the tied head (Q6_K with Q4_0)."""

    def prepare(checkpoint: Path, model: Path, threads: int) -> None:
        llama_cpp = quiet_llama()
        source = model.with_name("llama-f16")
        if not source.exists():
            prepare_gguf(checkpoint, source, threads)
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
        params.nthread = threads
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(model).encode(), ctypes.byref(params))
        if status != 0:
            raise RuntimeError(f"llama.cpp does not quantize to {file_type}: {status}")

    return prepare


def generate_llama(model: Path, prompt: list[int], threads: int) -> Iterator[int]:
    import numpy as np

    llama_cpp = quiet_llama()
    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(loaded, params)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
    while True:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        yield -1
        ids = prompt
        for _ in range(1 + STEPS):
            tokens = (llama_cpp.llama_token * len(ids))(*ids)
            status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
            if status != 0:
                raise RuntimeError(f"llama_decode: {status}")
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,))
            ids = [int(logits.argmax())]
            yield ids[0]


# By default its graph computes the logits of every position of the prompt.
PRUNED = "prune_lm_head=true"
PEERS = {
    "genai-int4": Peer("onnxruntime-genai", "int4", prepare_genai(""), generate_genai),
    "genai-int4-pruned": Peer("onnxruntime-genai", "int4", prepare_genai(PRUNED), generate_genai, PRUNED),
    "llama-f16": Peer("llama-cpp-python", "F16", prepare_gguf, generate_llama),
    "llama-bf16": Peer("llama-cpp-python", "BF16", prepare_quantized("BF16"), generate_llama),
    "llama-q8_0": Peer("llama-cpp-python", "Q8_0", prepare_quantized("Q8_0"), generate_llama),
    "llama-q4_0": Peer("llama-cpp-python", "Q4_0", prepare_quantized("Q4_0"), generate_llama),
}


def prepare(name: str, checkpoint: Path, work: Path, threads: int) -> None:
    """Under another name until it is whole."""
    model, partial = work / name, work / f"{name}.partial"
    if model.exists():
        return
    print(f"preparing {name}", file=sys.stderr)
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    PEERS[name].prepare(checkpoint, partial, threads)
    partial.rename(model)


def measure(name: str, model: Path, prompt: list[int], threads: int) -> dict[str, float | list[int]]:
    rounds = PEERS[name].generate(model, prompt, threads)
    for _ in range(2):  # the first one warms up
        next(rounds)
        ids, times = [], [time.perf_counter()]
        for _ in range(1 + STEPS):
            ids.append(next(rounds))
            times.append(time.perf_counter())
    seconds = [after - before for before, after in zip(times, times[1:])]
    return {
        "prefill_seconds": seconds[0],
        "decode_seconds_per_token": statistics.median(seconds[1:]),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "ids": ids,
    }


def in_process(run: Callable, *args):
    """In a fresh process: nobody finds another's threads, memory or caches."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *args).result()


def machine() -> dict[str, str | int | list[str]]:
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", ""),
        "cpu_features": [flag for flag in known if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
    }


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the models are kept")
    parser.add_argument("--checkpoint", type=Path, help="a Qwen3 checkpoint (default: a random one in --work)")
    parser.add_argument("--peer", choices=list(PEERS), action="append", help="repeatable (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    peers = args.peer or list(PEERS)
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.checkpoint or args.work / "checkpoint"
    if not (checkpoint / "config.json").exists():
        in_process(prepare_checkpoint, checkpoint)
    for name in peers:
        in_process(prepare, name, checkpoint, args.work, args.threads)
    vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    prompt = random.Random(0).choices(range(vocabulary), k=PROMPT)

    runs: dict[str, list[dict]] = {name: [] for name in peers}
    for round_ in range(args.rounds):
        for name in peers:
            runs[name].append(in_process(measure, name, args.work / name, prompt, args.threads))
        print(f"round {round_ + 1} of {args.rounds}", file=sys.stderr)

    report = {"machine": machine(), "threads": args.threads, "prompt_tokens": PROMPT, "steps": STEPS, "peers": []}
    print("| peer | precision | prefill, s (median, least) | one step, s (median, least) | MiB on disk | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in peers:
        peer, taken = PEERS[name], runs[name]
        column = {key: [run[key] for run in taken] for key in taken[0] if key != "ids"}
        prefill, step = column["prefill_seconds"], column["decode_seconds_per_token"]
        entry = {
            "name": peer.package, "version": version(peer.package), "precision": peer.precision,
            "options": peer.options, "prefill_tokens": PROMPT, **column,
            "bytes": size(args.work / name), "first_ids": taken[0]["ids"][:8],
        }  # fmt: skip
        report["peers"].append(entry)
        print(
            f"| {name} | {peer.precision} | {statistics.median(prefill):.3f}, {min(prefill):.3f} "
            f"| {statistics.median(step):.4f}, {min(step):.4f} "
            f"| {entry['bytes'] / 2**20:.0f} | {max(column['peak_rss_mib'])} |"
        )
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
