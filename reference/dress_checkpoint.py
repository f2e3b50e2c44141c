"""Gives a random checkpoint of a preset of Qwen's a tokenizer that other programs know.

    python dress_checkpoint.py --checkpoint DIR --tokenizer ../target/smollm2/llama --out DIR

The tokenizer of `arrcoc-export init` is made of bytes, and llama.cpp's converter takes no tokenizer that it
has not seen before. SmolLM2's (`python -m smollm2.make_checkpoint`) it knows; Qwen's four marks of pictures
are added behind its tokens, which is below the model's vocabulary. Everything else stays as it is: weights
(hard links), chat template, settings of pictures.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

# By the names of their ids in config.json.
MARKS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
END, PAD = "<|im_end|>", "<|endoftext|>"
AS_THEY_ARE = ["chat_template.jinja", "preprocessor_config.json", "tokenizer_config.json"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="SmolLM2's directory")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    dress(args.checkpoint, args.tokenizer, args.out)


def dress(checkpoint: Path, tokenizer_dir: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = read(tokenizer_dir / "tokenizer.json")
    ids = add_marks(tokenizer)
    write(out / "tokenizer.json", tokenizer)
    config = read(checkpoint / "config.json")
    if max(ids.values()) >= config["text_config"]["vocab_size"]:
        raise ValueError(f"expected a vocabulary of more than {max(ids.values())} tokens")
    ends = {"eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    config |= {name: ids[mark] for name, mark in MARKS.items()}
    config["text_config"] |= ends
    generation = read(checkpoint / "generation_config.json")
    write(out / "generation_config.json", generation | ends | {"eos_token_id": [ids[END], ids[PAD]]})
    for name in AS_THEY_ARE:
        shutil.copyfile(checkpoint / name, out / name)
    for weights in checkpoint.glob("model*.safetensors*"):
        link(weights, out / weights.name)
    # Last: where it stands, all stands.
    write(out / "config.json", config)


def add_marks(tokenizer: dict) -> dict[str, int]:
    """Adds the marks to the content of a tokenizer.json; returns the ids of all added tokens."""
    added = tokenizer["added_tokens"]
    first = 1 + max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added)])
    for at, mark in enumerate(MARKS.values()):
        plain = {name: False for name in ("single_word", "lstrip", "rstrip", "normalized")}
        added.append({"id": first + at, "content": mark, **plain, "special": True})
    return {token["content"]: token["id"] for token in added}


def link(source: Path, target: Path) -> None:
    """A hard link, or a link by name where the disk is another."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
