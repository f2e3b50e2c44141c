"""What a Qwen model gets beside the ids of a prompt, and the tensors that tell of it."""

import torch
from torch import Tensor


def see(model, encoded) -> tuple[dict[str, Tensor], dict]:
    """The tensors to keep of a prompt, and the model's inputs at the prompt."""
    # The model remembers the offset of the last picture's positions: a prompt without one would take it over.
    model.model.rope_deltas = None
    if "pixel_values" not in encoded:
        places = torch.arange(encoded["input_ids"].shape[1])
        return {"position_ids": places.expand(3, -1)}, {}
    grids, types = encoded["image_grid_thw"], encoded["mm_token_type_ids"]
    features = model.get_image_features(encoded["pixel_values"], grids, return_dict=True)
    positions, _ = model.model.get_rope_index(encoded["input_ids"], types, image_grid_thw=grids)
    tensors = {
        "pixel_values": encoded["pixel_values"],  # [patches, 3 * 2 * patch * patch]
        "image_grid_thw": grids,  # [images, 3]
        "image_features": torch.cat(features.pooler_output),  # [rows, H]
        "position_ids": positions[:, 0],  # [3, S]
    }
    taps = getattr(features, "deepstack_features", None)
    if taps:
        tensors["deepstack_features"] = torch.stack([torch.cat(rows) for rows in taps])  # [taps, rows, H]
    # The tower runs once: this is what the model makes of pixels by itself.
    rows = {
        "mm_encoder_outputs": {"image": features},
        "image_grid_thw": grids,
        "mm_token_type_ids": types,
    }
    return tensors, rows


def longer(rows: dict, steps: int) -> dict:
    """The same inputs for a prompt with `steps` tokens of text behind it."""
    if "mm_token_type_ids" not in rows:
        return rows
    types = rows["mm_token_type_ids"]
    return rows | {"mm_token_type_ids": torch.cat([types, types.new_zeros(1, steps)], dim=1)}
