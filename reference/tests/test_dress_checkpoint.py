"""A dressed checkpoint: the tokenizer is the other one with four marks, and all ids say so."""

import json
from pathlib import Path

import dress_checkpoint
import pytest

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b"]


def checkpoint(directory: Path, vocabulary: int) -> Path:
    directory.mkdir()
    config = {"image_token_id": 261, "tie_word_embeddings": True}
    text = {"vocab_size": vocabulary, "eos_token_id": 258, "pad_token_id": 256}
    dress_checkpoint.write(directory / "config.json", config | {"text_config": text})
    dress_checkpoint.write(
        directory / "generation_config.json", {"do_sample": False, "eos_token_id": [258, 256]}
    )
    for name in [*dress_checkpoint.AS_THEY_ARE, "model.safetensors"]:
        (directory / name).write_text(f"the {name}\n")
    return directory


def smollm2(directory: Path) -> Path:
    directory.mkdir()
    added = [{"id": at, "content": token, "special": True} for at, token in enumerate(TOKENS[:3])]
    model = {"vocab": {token: at for at, token in enumerate(TOKENS)}, "merges": []}
    dress_checkpoint.write(directory / "tokenizer.json", {"added_tokens": added, "model": model})
    return directory


def test_marks_stand_behind_the_tokens_and_every_file_knows_them(tmp_path):
    source, out = checkpoint(tmp_path / "plain", 16), tmp_path / "dressed"
    dress_checkpoint.dress(source, smollm2(tmp_path / "smollm2"), out)
    added = json.loads((out / "tokenizer.json").read_text())["added_tokens"]
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert [(token["content"], token["id"]) for token in added[3:]] == list(
        zip(marks, range(5, 9), strict=True)
    )
    config = json.loads((out / "config.json").read_text())
    assert (config["vision_start_token_id"], config["vision_end_token_id"]) == (5, 6)
    assert (config["image_token_id"], config["video_token_id"]) == (7, 8)
    assert config["text_config"] == {"vocab_size": 16, "eos_token_id": 2, "pad_token_id": 0}
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 0}
    assert (out / "model.safetensors").samefile(source / "model.safetensors")
    assert (out / "chat_template.jinja").read_text() == "the chat_template.jinja\n"


def test_a_vocabulary_without_room_for_the_marks_is_refused(tmp_path):
    source = checkpoint(tmp_path / "plain", 8)
    with pytest.raises(ValueError, match="more than 8 tokens"):
        dress_checkpoint.dress(source, smollm2(tmp_path / "smollm2"), tmp_path / "dressed")
    assert not (tmp_path / "dressed" / "config.json").exists()
