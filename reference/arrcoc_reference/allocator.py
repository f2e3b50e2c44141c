"""The allocator: how relevant is each patch of the image to this question, and how many tokens is it worth?

Three ways of knowing score every patch; opponent processing, driven by the question and by the statistics
of the scores, decides how much each of them counts. Letters are those of the package's docstring.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LAYER_NORM_EPS, VARIANCE_EPS, Mlp

# Added to the logits of padding tokens. Not -inf: fp16 engines must be able to hold it.
MASKED = -1e4


class Allocation(NamedTuple):
    relevance: Tensor  # [B, P] in 0..1
    knowing: Tensor  # [B, 3, P] propositional, perspectival, participatory, in 0..1
    tension_weights: Tensor  # [B, 3] how much each of them counts, sum 1
    tier_logits: Tensor  # [B, E]


def mean_std_max(x: Tensor) -> Tensor:
    """Statistics over the last axis: [..., N] -> three of [...], concatenated on the last axis that remains."""
    mean = x.mean(-1)  # [...]
    std = ((x - mean[..., None]).square().mean(-1) + VARIANCE_EPS).sqrt()  # [...]
    return torch.cat([mean, std, x.amax(-1)], dim=-1)


class QueryEncoder(nn.Module):
    """The question's token embeddings, with a little context from their neighbours, and their pooled summary."""

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.proj = nn.Linear(text_width, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.context = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.pool = nn.Linear(width, 1, bias=False)

    def forward(self, query_embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        keep = mask[:, :, None]  # [B, Q, 1]
        u = self.norm(self.proj(query_embeds)) * keep  # [B, Q, d]
        # Padding is zeroed before and after the convolution, so a padded question equals the same one alone.
        context = self.context(u.transpose(1, 2)).transpose(1, 2)  # [B, Q, d]
        u = (u + F.gelu(context)) * keep  # [B, Q, d]
        scores = self.pool(u)[:, :, 0] / u.shape[-1] ** 0.5 + (1 - mask) * MASKED  # [B, Q]
        pooled = torch.einsum("bq,bqd->bd", scores.softmax(-1), u)  # [B, d]
        return u, pooled


class Propositional(Mlp):
    """What is there: information in the features themselves."""

    def __init__(self, channels: int, width: int):
        super().__init__(channels, width, 1)
        self.entropy_gain = nn.Parameter(torch.zeros(1))

    def forward(self, image_features: Tensor, normed: Tensor) -> Tensor:
        logp = image_features.log_softmax(-1)  # [B, P, C]
        entropy = -(logp.exp() * logp).sum(-1, keepdim=True) / math.log(logp.shape[-1])  # [B, P, 1] in 0..1
        return super().forward(normed) + self.entropy_gain * entropy  # [B, P, 1]


class Perspectival(Mlp):
    """What stands out: how each patch differs from the image's mean."""

    def __init__(self, channels: int, width: int):
        super().__init__(channels, width, 1)
        self.contrast_gain = nn.Parameter(torch.zeros(1))

    def forward(self, normed: Tensor) -> Tensor:
        contrast = normed - normed.mean(1, keepdim=True)  # [B, P, C]
        energy = contrast.square().mean(-1, keepdim=True)  # [B, P, 1]
        return super().forward(contrast) + self.contrast_gain * energy  # [B, P, 1]


class Participatory(nn.Module):
    """What the question asks for: patches attend to the question's tokens."""

    def __init__(self, channels: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, 1)
        self.match_gain = nn.Parameter(torch.zeros(1))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, N, d] -> [B, n, N, d/n]

    def forward(self, normed: Tensor, u: Tensor, mask: Tensor) -> Tensor:
        q = self.q_proj(normed)  # [B, P, d]
        k = self.split(self.k_proj(u))  # [B, n, Q, d/n]
        v = self.split(self.v_proj(u))  # [B, n, Q, d/n]
        scale = k.shape[-1] ** -0.5
        logits = self.split(q * scale) @ k.transpose(2, 3)  # [B, n, P, Q]
        logits = logits + ((1 - mask) * MASKED)[:, None, None, :]  # [B, n, P, Q]
        merged = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)  # [B, P, d]
        o = self.out_proj(merged)  # [B, P, d]
        match = logits.amax(-1).mean(1)[:, :, None]  # [B, P, 1] the best token's logit, averaged over the heads
        return self.fc2(F.gelu(self.fc1(q * o))) + self.match_gain * match  # [B, P, 1]


class Opponent(Mlp):
    """Three tensions in -1..1: compress <-> particularize, exploit <-> explore, focus <-> diversify."""

    def __init__(self, width: int):
        super().__init__(width + 9, width, 3)
        self.weights = nn.Linear(3, 3)

    def forward(self, pooled: Tensor, stats: Tensor) -> tuple[Tensor, Tensor]:
        tensions = super().forward(torch.cat([pooled, stats], dim=-1)).tanh()  # [B, 3]
        return tensions, self.weights(tensions).softmax(-1)  # [B, 3], [B, 3]


class Allocator(nn.Module):
    def __init__(self, channels: int, text_width: int, width: int, heads: int, tiers: int):
        super().__init__()
        self.query_encoder = QueryEncoder(text_width, width)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.propositional = Propositional(channels, width)
        self.perspectival = Perspectival(channels, width)
        self.participatory = Participatory(channels, width, heads)
        self.opponent = Opponent(width)
        self.tier_head = Mlp(width + 15, width, tiers)

    def forward(self, image_features: Tensor, query_embeds: Tensor, query_mask: Tensor) -> Allocation:
        """image_features [B, P, C], query_embeds [B, Q, H], query_mask [B, Q] of 1 (token) and 0 (right padding)."""
        mask = query_mask.to(query_embeds.dtype)  # [B, Q]
        u, pooled = self.query_encoder(query_embeds, mask)  # [B, Q, d], [B, d]
        normed = self.norm(image_features)  # [B, P, C]
        scores = torch.cat(
            [
                self.propositional(image_features, normed),  # [B, P, 1]
                self.perspectival(normed),  # [B, P, 1]
                self.participatory(normed, u, mask),  # [B, P, 1]
            ],
            dim=-1,
        ).transpose(1, 2)  # [B, 3, P]
        knowing = scores.sigmoid()  # [B, 3, P]

        stats = mean_std_max(knowing)  # [B, 9]
        tensions, weights = self.opponent(pooled, stats)  # [B, 3], [B, 3]
        exploit, focus = tensions[:, 1:2], tensions[:, 2:3]  # [B, 1], [B, 1]
        r = torch.einsum("bk,bkp->bp", weights, scores)  # [B, P]
        r = exploit.exp() * (r - focus * r.mean(-1, keepdim=True))  # [B, P]
        relevance = r.sigmoid()  # [B, P]

        rstats = mean_std_max(relevance[:, None])  # [B, 3]
        tier_logits = self.tier_head(torch.cat([pooled, stats, rstats, tensions], dim=-1))  # [B, E]
        return Allocation(relevance, knowing, weights, tier_logits)
