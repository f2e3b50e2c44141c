"""The quality adapter: one head per tier, which brings tokens to the statistics that the decoder was trained on.

Letters are those of the package's docstring; Ha is the adapter's hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LAYER_NORM_EPS, VARIANCE_EPS, Stacked, stacked_linear


class QualityAdapter(nn.Module):
    def __init__(
        self, clip_width: int, hidden: int, text_width: int, tiers: int, target_mean: float, target_std: float
    ):
        super().__init__()
        self.target_mean, self.target_std = target_mean, target_std
        self.fc1 = stacked_linear(tiers, clip_width, hidden)
        self.norm = Stacked(torch.ones(tiers, hidden), torch.zeros(tiers, hidden))
        self.fc2 = stacked_linear(tiers, hidden, text_width)
        self.scale = nn.Parameter(torch.ones(tiers))
        self.shift = nn.Parameter(torch.zeros(tiers))
        # Not 0: relu has no gradient there, and the threshold could never move.
        self.threshold = nn.Parameter(torch.full((tiers,), 0.01))

    def forward(self, refined_tokens: Tensor, tier: Tensor) -> Tensor:
        """refined_tokens [B, T, D], tier [B] of 0..E-1 -> visual_embeds [B, T, H]."""

        def rows(p: Tensor) -> Tensor:
            return p.index_select(0, tier)  # p[tier], with a gradient that is summed in one order on every run

        w1, b1 = rows(self.fc1.weight), rows(self.fc1.bias)[:, None]  # [B, Ha, D], [B, 1, Ha]
        w2, b2 = rows(self.fc2.weight), rows(self.fc2.bias)[:, None]  # [B, H, Ha], [B, 1, H]
        gain, bias = rows(self.norm.weight)[:, None], rows(self.norm.bias)[:, None]  # [B, 1, Ha]
        per_image = (rows(p)[:, None, None] for p in (self.scale, self.shift, self.threshold))
        scale, shift, threshold = per_image  # [B, 1, 1] each

        y = refined_tokens @ w1.transpose(1, 2) + b1  # [B, T, Ha]
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=LAYER_NORM_EPS) * gain + bias)  # [B, T, Ha]
        y = y @ w2.transpose(1, 2) + b2  # [B, T, H]

        # Whiten over all tokens and channels of one image, shrink what is small to exact zeros, then
        # re-colour.
        mean = y.mean((1, 2), keepdim=True)  # [B, 1, 1]
        var = (y - mean).square().mean((1, 2), keepdim=True)  # [B, 1, 1]
        z = (y - mean) / (var + VARIANCE_EPS).sqrt()  # [B, T, H]
        z = z.sign() * (z.abs() - threshold.relu()).relu()  # [B, T, H]
        return (z * scale + shift) * self.target_std + self.target_mean  # [B, T, H]
