"""The arms of the comparison: other ways than the allocator's to decide what the compressor is given.

`eval/src/arms/` computes the same from the exported graphs; these are for training, so that one decoder knows every
arm's tokens. Letters are those of the package's docstring; n is the side of a square grid of tokens.
"""

import math
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Arm(StrEnum):
    QUERY_AWARE = "query_aware"
    QUERY_AWARE_CHOICE = "query_aware_choice"
    AGNOSTIC = "agnostic"
    FULL = "full"
    UNIFORM = "uniform"
    RANDOM = "random"
    GRID = "grid"
    DOWNSAMPLED = "downsampled"


def grid_side(budget: int) -> int:
    return math.isqrt(budget)


def ranked(scores: Tensor) -> Tensor:
    """Scores [B, P] to relevances that keep only their order. The compressor adds relevance to a token as a cue: arms
    that do not know the question must neither give nor garble one, and so theirs lie close together. Of equal scores the first
    comes first, as in the compressor's choice."""
    order = scores.argsort(dim=-1, descending=True, stable=True)  # [B, P]
    ranks = order.argsort(dim=-1)  # [B, P] 0 is the best
    return 0.55 - 0.1 * ranks / max(1, scores.shape[-1] - 1)


def neutral(features: Tensor) -> Tensor:
    return features.new_full(features.shape[:2], 0.5)  # [B, P]


def uniform_scores(patches: int) -> Tensor:
    """[P]: highest where the patch comes early in the order that takes, each time, the patch farthest from all before."""
    s = math.isqrt(patches)
    places = torch.stack(torch.meshgrid(torch.arange(s), torch.arange(s), indexing="ij"), -1).reshape(-1, 2).float()
    distance = (places - (s - 1) / 2).norm(dim=-1)
    distance = distance.max() - distance  # the first one is in the middle
    scores = torch.zeros(patches)
    nearest = None
    for rank in range(patches):
        chosen = int((distance if nearest is None else nearest).argmax())
        away = (places - places[chosen]).norm(dim=-1)
        nearest = away if nearest is None else torch.minimum(nearest, away)
        nearest[chosen] = -1.0
        scores[chosen] = patches - rank
    return scores


class GridNeck(nn.Module):
    """DeepSeek-OCR's fixed strided grid at any side: average pooling to 2n x 2n, then a 2x2 convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        # At first the mean of the four.
        self.weight = nn.Parameter(torch.eye(channels)[:, :, None, None].repeat(1, 1, 2, 2) / 4)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, image_features: Tensor, n: int) -> Tensor:
        s = math.isqrt(image_features.shape[1])
        grid = image_features.transpose(1, 2).unflatten(2, (s, s))  # [B, C, s, s]
        grid = F.adaptive_avg_pool2d(grid, 2 * n)  # [B, C, 2n, 2n]
        return F.conv2d(grid, self.weight, self.bias, stride=2).flatten(2).transpose(1, 2)  # [B, n*n, C]
