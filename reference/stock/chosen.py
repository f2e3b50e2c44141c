"""What transformers makes of a conversation of whose pictures some rows are kept.

    python -m stock.chosen DIR...     (directories that stock.draw made; writes chosen.json and chosen.safetensors)
    python -m stock.chosen --compare DIR...     (makes them again, and fails where those in DIR differ)

The prompt is run whole, with every position and every row, and no token may look at a row that is not kept: the
reference for runs in which those rows are gathered away. Layers with a recurrent memory (Qwen3.5) have no keys that
could be masked. There the rows are gathered away here too.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import families, golden, qwen

# How much of every picture is kept, of rows that lie evenly spread.
SHARE = 0.4
STEPS = 12
TOLERANCE = 2e-5


def evenly(centres: np.ndarray, count: int) -> list[int]:
    """The first so many of places in the order of a Morton curve whose bits are turned round. `centres`: x and y
    of each, as shares of the picture, float32."""
    whole = np.minimum((centres * np.float32(65536)).astype(np.uint32), 65535)

    def key(place: np.ndarray) -> int:
        x, y = (f"{int(number):016b}"[::-1] for number in place)
        return int("".join(a + b for a, b in zip(x, y)), 2)

    keys = [key(place) for place in whole]
    return sorted(sorted(range(len(keys)), key=lambda at: keys[at])[:count])


def centres(rects: np.ndarray) -> np.ndarray:
    """`rects`: left, top, right, bottom of each place, float32."""
    return np.stack(
        [(rects[:, 0] + rects[:, 2]) / np.float32(2) / rects[:, 2].max(),
         (rects[:, 1] + rects[:, 3]) / np.float32(2) / rects[:, 3].max()], axis=1
    )


def grid_rects(rows: int, columns: int, width: int, height: int) -> list:
    """Places of a grid, row by row."""
    one = np.float32
    return [
        [one(c) / one(columns) * one(width), one(r) / one(rows) * one(height),
         one(c + 1) / one(columns) * one(width), one(r + 1) / one(rows) * one(height)]
        for r in range(rows)
        for c in range(columns)
    ]


def tile_rects(tiles: list[tuple[int, int]], side: int, width: int, height: int) -> list:
    """Places of tiles, each of side x side rows, and of the view of the whole behind them."""
    one = np.float32
    rows, columns = (max(tile[axis] for tile in tiles) if tiles else 0 for axis in (0, 1))
    at = lambda place, of, length: one(place) / one(of) * one(length)  # noqa: E731
    edges = [
        [at(c - 1, columns, width), at(r - 1, rows, height), at(c, columns, width), at(r, rows, height)]
        for r, c in tiles
    ]
    edges.append([one(0), one(0), one(width), one(height)])
    between = lambda start, end, cell: start + (end - start) * one(cell) / one(side)  # noqa: E731
    return [
        [between(left, right, c), between(top, bottom, r), between(left, right, c + 1), between(top, bottom, r + 1)]
        for left, top, right, bottom in edges
        for r in range(side)
        for c in range(side)
    ]


def kept_rows(rects: list) -> list[int]:
    places = np.array(rects, dtype=np.float32)
    return evenly(centres(places), math.ceil(len(places) * SHARE))


def pictures_of(conversation: dict, directory: Path) -> list[tuple[int, int]]:
    """Width and height of every picture, in order."""
    from PIL import Image

    parts = [part for message in conversation["messages"] for part in message["content"] if isinstance(part, dict)]
    files = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(directory / file).size for file in files]


@torch.no_grad()
def choose(model, processor, case: dict, directory: Path) -> tuple[dict, Tensor] | None:
    """The entry of a conversation and the logits of its answer, [STEPS, V]; None where it shows no picture."""
    encoded = processor.apply_chat_template(
        golden.for_transformers(case["messages"], directory),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images_kwargs": case.get("mm_processor_kwargs", {})},
        **case.get("chat_template_kwargs", {}),
    )
    if "pixel_values" not in encoded:
        return None
    is_qwen = model.config.model_type in qwen.shapes.FAMILIES
    tensors, rows = qwen.inputs.see(model, encoded) if is_qwen else golden.tiles(model, encoded)
    ids = encoded["input_ids"]  # [1, S]
    visual = (ids[0] == model.config.image_token_id).nonzero()[:, 0]  # [rows]
    sizes = pictures_of(case, directory)
    if is_qwen:
        merge = model.config.vision_config.spatial_merge_size
        grids = [(int(h) // merge, int(w) // merge) for _, h, w in encoded["image_grid_thw"]]
        rects = [grid_rects(*grid, *size) for grid, size in zip(grids, sizes)]
        positions = tensors["position_ids"][:, None]  # [3, 1, S]
    else:
        rects = [tile_rects(tiles, side, *size) for (tiles, side), size in zip(cuts(processor, ids, visual), sizes)]
        positions = torch.arange(ids.shape[1])[None]  # [1, S]
    kept = [kept_rows(each) for each in rects]
    if sum(map(len, rects)) != len(visual):
        raise ArithmeticError(f"{case['name']}: {len(visual)} rows in the prompt, {sum(map(len, rects))} places")
    firsts = np.cumsum([0, *map(len, rects)])
    shown = torch.ones(ids.shape[1], dtype=torch.bool)
    shown[visual] = False
    for first, rows_kept in zip(firsts, kept):
        shown[visual[[int(first) + row for row in rows_kept]]] = True

    masked = not any("linear" in kind for kind in getattr(model.config.get_text_config(), "layer_types", None) or [])
    run = with_masks if masked else with_gathered
    greedy, logits = [], []
    for _ in range(STEPS):
        found = run(model, ids, rows, positions, shown)
        logits.append(found)
        best = found.topk(2)
        if best.values[0] - best.values[1] < golden.MIN_MARGIN or best.indices[0] == model.config.image_token_id:
            # Rounding could choose another one; and an image token would ask for a picture.
            break
        greedy.append(int(best.indices[0]))
        ids = torch.cat([ids, found.argmax().view(1, 1)], dim=1)
        positions = torch.cat([positions, positions.amax(dim=(0, -1) if is_qwen else -1, keepdim=True).expand_as(positions[..., :1]) + 1], dim=-1)
        shown = torch.cat([shown, torch.ones(1, dtype=torch.bool)])
        rows = qwen.inputs.longer(rows, 1) if is_qwen else rows
    entry = {"name": case["name"], "kept": kept, "greedy": greedy, "masked": masked}
    return entry, torch.stack(logits)


def cuts(processor, ids: Tensor, visual: Tensor) -> list[tuple[list[tuple[int, int]], int]]:
    """Rows and columns of every picture's tiles, and how many rows a tile has on a side."""
    text = processor.tokenizer.decode(ids[0])
    side = math.isqrt(processor.image_seq_len)
    found, tiles = [], []
    whole = re.escape(getattr(processor, "global_image_tag", None) or processor.global_image_token)
    for match in re.finditer(rf"<row_(\d+)_col_(\d+)>|{whole}", text):
        if match[1]:
            tiles.append((int(match[1]), int(match[2])))
        else:
            found.append((tiles, side))
            tiles = []
    return found


def with_masks(model, ids: Tensor, rows: dict, positions: Tensor, shown: Tensor) -> Tensor:
    """Logits behind the last token, of a run in which nothing looks at what is not shown."""
    length = ids.shape[1]
    looks = torch.ones(length, length, dtype=torch.bool).tril() & shown[None]  # [S, S]
    mask = torch.zeros(1, 1, length, length).masked_fill(~looks, torch.finfo(torch.float32).min)
    return model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **rows
    ).logits[0, -1]


def with_gathered(model, ids: Tensor, rows: dict, positions: Tensor, shown: Tensor) -> Tensor:
    """The same of a run without the others."""
    embeds = model.get_input_embeddings()(ids)  # [1, S, H]
    visual = torch.cat(rows["mm_encoder_outputs"]["image"].pooler_output)  # [rows, H]
    embeds[0, ids[0] == model.config.image_token_id] = visual
    states = model.model.language_model(
        inputs_embeds=embeds[:, shown], position_ids=positions[..., shown], use_cache=False
    ).last_hidden_state
    return model.lm_head(states[0, -1])


def make(directory: Path) -> tuple[dict, dict[str, Tensor]]:
    """The content of both files, for a directory of stock.draw."""
    content = json.loads((directory / "cases.json").read_text())
    files = directory / "checkpoint"
    if not (files / "config.json").exists():
        files = next((directory / "snapshots").iterdir())
    model, processor = families.load(content["drawn"]["family"], files)
    found = [choose(model, processor, case, directory) for case in content["cases"]]
    found = [each for each in found if each]
    entries = [entry for entry, _ in found]
    tensors = {entry["name"]: logits.contiguous() for entry, logits in found}
    return {"share": SHARE, "cases": entries}, tensors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    failed = False
    for directory in args.directories:
        content, tensors = make(directory)
        if not args.compare:
            (directory / "chosen.json").write_text(json.dumps(content) + "\n")
            save_file(tensors, directory / "chosen.safetensors")
            (directory / "chosen.safetensors").chmod(0o644)
            continue
        old = load_file(directory / "chosen.safetensors")
        same = json.loads((directory / "chosen.json").read_text()) == content and old.keys() == tensors.keys()
        worst = max((((old[name] - tensors[name]).abs().max() / old[name].abs().max()).item() for name in tensors), default=0) if same else math.inf
        print(f"{directory}: {worst:.1e}")
        failed |= not worst <= TOLERANCE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
