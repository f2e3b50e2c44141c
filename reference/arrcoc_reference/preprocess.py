"""Image to pixels, by transformers' own SamImageProcessor (its PIL backend: torchvision is not needed)."""

import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


class Preprocessor:
    def __init__(self, checkpoint: str | Path, patch_size: int):
        config = json.loads((Path(checkpoint) / "preprocessor_config.json").read_text())
        config.pop("image_processor_type", None)
        self.processor = SamImageProcessorPil(**config)
        self.patch_size = patch_size

    def __call__(self, image: Image.Image, size: int) -> tuple[Tensor, Tensor]:
        """An image into `size` x `size` pixels: pixel_values [1, 3, size, size] and valid [1, P], true for the
        patches that hold some of the image; the rest is padding on the right or below."""
        out = self.processor(image, size={"longest_edge": size}, pad_size={"height": size, "width": size})
        pixel_values = torch.from_numpy(out["pixel_values"][0])[None]  # [1, 3, size, size]
        height, width = out["reshaped_input_sizes"][0]
        valid = torch.zeros(size // self.patch_size, size // self.patch_size, dtype=torch.bool)  # [s, s]
        valid[: math.ceil(height / self.patch_size), : math.ceil(width / self.patch_size)] = True
        return pixel_values, valid.flatten()[None]

    def resized(self, image: Image.Image, size: int) -> Tensor:
        """The image as it is before rescaling, normalisation and padding: uint8 [h', w', 3]."""
        out = self.processor(
            image, size={"longest_edge": size}, do_rescale=False, do_normalize=False, do_pad=False
        )
        return torch.from_numpy(out["pixel_values"][0].copy()).permute(1, 2, 0).contiguous()
