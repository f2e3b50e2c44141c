"""transformers' own vision towers, used as this model needs them. Letters are those of the package's docstring.

SAM at sizes other than its native one, after DeepSeek-OCR's encoder: absolute positions interpolated bicubically
with antialiasing, relative tables linearly (transformers does that by itself). CLIP over tokens that form no grid:
its position table is sampled bilinearly at each token's place.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.models.sam.modeling_sam import SamVisionEncoder


def encode_image(sam: SamVisionEncoder, pixel_values: Tensor) -> Tensor:
    """pixel_values [B, 3, h, w] -> image_features [B, P, C], patches row by row."""
    # SamVisionEncoder.forward, less its check of the size and with positions to match.
    x = sam.patch_embed.projection(pixel_values).permute(0, 2, 3, 1)  # [B, h/16, w/16, width]
    if sam.pos_embed is not None:
        x = x + resize_positions(sam.pos_embed, x.shape[1:3])  # [B, h/16, w/16, width]
    for layer in sam.layers:
        x = layer(x)  # [B, h/16, w/16, width]
    return sam.neck(x).flatten(2).transpose(1, 2)  # [B, P, C]


def resize_positions(table: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, rows, columns, width] -> [1, *size, width]; at the native size the table itself."""
    if table.shape[1:3] == size:
        return table
    grid = table.permute(0, 3, 1, 2)  # [1, width, rows, columns]
    grid = F.interpolate(grid, size, mode="bicubic", antialias=True, align_corners=False)  # [1, width, *size]
    return grid.permute(0, 2, 3, 1)


def sample_positions(grid: Tensor, positions: Tensor) -> Tensor:
    """grid [n*n, D] of a square table, positions [B, T, 2] of (y, x) in 0..1 -> [B, T, D]."""
    n = math.isqrt(grid.shape[0])
    yx = (positions * n - 0.5).clamp(0, n - 1)  # [B, T, 2] cell centres are at integers
    low = yx.floor()  # [B, T, 2]
    (fy, fx), (y0, x0) = (yx - low).unbind(-1), low.long().unbind(-1)  # [B, T] each
    y1, x1 = (y0 + 1).clamp(max=n - 1), (x0 + 1).clamp(max=n - 1)  # [B, T] each
    fy, fx = fy[..., None], fx[..., None]  # [B, T, 1] each
    top = grid[y0 * n + x0] * (1 - fx) + grid[y0 * n + x1] * fx  # [B, T, D]
    bottom = grid[y1 * n + x0] * (1 - fx) + grid[y1 * n + x1] * fx  # [B, T, D]
    return top * (1 - fy) + bottom * fy


def refine(clip: CLIPVisionModel, visual_tokens: Tensor, token_positions: Tensor) -> Tensor:
    """visual_tokens [B, T, D], token_positions [B, T, 2] -> refined_tokens [B, T, D].

    CLIPVisionModel.forward with our tokens for its patches, and without post_layernorm, which transformers
    applies to the class token only."""
    table = clip.embeddings.position_embedding.weight  # [1 + n*n, D]
    first = (clip.embeddings.class_embedding + table[0]).expand(visual_tokens.shape[0], 1, -1)  # [B, 1, D]
    placed = visual_tokens + sample_positions(table[1:], token_positions)  # [B, T, D]
    h = clip.pre_layrnorm(torch.cat([first, placed], dim=1))  # [B, 1+T, D]
    h = clip.encoder(inputs_embeds=h).last_hidden_state  # [B, 1+T, D]
    return h[:, 1:]
