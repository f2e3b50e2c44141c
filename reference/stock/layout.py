"""How a checkpoint's files lie: in a directory, or linked as in the hub's cache; what old releases repeat."""

import hashlib
import json
from pathlib import Path


def place(drawn, directory: Path) -> Path:
    """Makes and returns the directory to write to, for a checkpoint that is to be reached at `directory`."""
    plain = directory
    if drawn.hub_layout:
        # As in the hub's cache: snapshots/REVISION/FILE links to ../../blobs/HASH.
        plain = directory.parent / "snapshots" / f"{drawn.family}{drawn.seed}"
    plain.mkdir(parents=True)
    return plain


def finish(drawn, directory: Path, plain: Path) -> Path:
    """Links what lies in `plain`, where that was drawn; returns where the files are reached."""
    if drawn.hub_layout:
        link_blobs(plain, directory.parent / "blobs")
        directory.symlink_to(plain.relative_to(directory.parent))
    return directory


def link_blobs(plain: Path, blobs: Path) -> None:
    blobs.mkdir()
    for file in sorted(plain.iterdir()):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)


def old_tokenizer(directory: Path) -> None:
    """`added_tokens_decoder` and special_tokens_map.json: transformers 4 repeats what tokenizer.json says."""
    listed = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
    decoder = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in listed}
    edit(
        directory / "tokenizer_config.json",
        lambda config: (
            {"added_tokens_decoder": decoder} | config | {"tokenizer_class": "PreTrainedTokenizerFast"}
        ),
    )
    config = json.loads((directory / "tokenizer_config.json").read_text())
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {
        name: {
            "content": config[name],
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        }
        for name in names
        if config.get(name)
    }
    write_json(directory / "special_tokens_map.json", special)


def edit(file: Path, change) -> None:
    write_json(file, change(json.loads(file.read_text())))


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
