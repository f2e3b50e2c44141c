"""The compressor: T visual tokens out of P patches; a coarse gist of the whole image, then the most relevant patches.

Letters are those of the package's docstring. `T` arrives as a number of slots, one of the tiers in service.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LAYER_NORM_EPS, Weight, stacked_linear

# The largest tier. Selection always ranks this many, so that exported graphs have a constant k.
MAX_FINE = 400
# Lower than any relevance, a padding patch's -1 included: filler so that there are always MAX_FINE
# candidates.
FILLER = -2.0


def patch_positions(s: int, device: torch.device) -> Tensor:
    """Centres (y, x) in 0..1 of s x s row-major patches: [P, 2]."""
    centres = (torch.arange(s, device=device) + 0.5) / s  # [s]
    return torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).flatten(0, 1)


def gist_membership(s: int, g: int, device: torch.device) -> Tensor:
    """Which patch belongs to which gist cell, as weights that average: [G, P], rows sum to 1."""
    cell = torch.arange(s, device=device) * g // s  # [s]
    cells = (cell[:, None] * g + cell[None, :]).flatten()  # [P]
    member = F.one_hot(cells, g * g).T.float()  # [G, P]
    return member / member.sum(-1, keepdim=True)


class Compressor(nn.Module):
    def __init__(self, channels: int, clip_width: int, hidden: int, gist_grid: int, budgets: list[int]):
        super().__init__()
        experts = len(budgets)
        self.gist_grid = gist_grid
        self.log_budgets = [math.log(b) for b in budgets]
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.router = nn.Linear(channels, experts)
        self.prior_sharpness = nn.Parameter(torch.ones(1))
        self.fc1 = stacked_linear(experts, channels, hidden)
        self.fc2 = stacked_linear(experts, hidden, clip_width)
        self.relevance_embed = Weight(torch.randn(clip_width) * 0.02)
        self.kind_embed = Weight(torch.randn(2, clip_width) * 0.02)

    def select(self, relevance: Tensor, tokens: int) -> Tensor:
        """Indices [B, T]: below P a patch, P + j gist cell j. Ties go to the lower index, hence the stable sort."""
        b, p = relevance.shape
        filler = relevance.new_full((b, MAX_FINE), FILLER)  # [B, 400]
        ranked = torch.cat([relevance, filler], dim=1).sort(dim=1, descending=True, stable=True).indices  # [B, P+400]
        gist = torch.arange(p, p + self.gist_grid**2, device=relevance.device).expand(b, -1)  # [B, G]
        return torch.cat([gist, ranked[:, :MAX_FINE]], dim=1)[:, :tokens]  # [B, T]

    def forward(self, image_features: Tensor, relevance: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """image_features [B, P, C], relevance [B, P] (-1 at padding patches) -> visual_tokens [B, T, D],
        token_positions [B, T, 2] and token_indices [B, T]. At most P + G tokens."""
        b, p, _ = image_features.shape
        s, g, device = math.isqrt(p), self.gist_grid, image_features.device
        if s * s != p:
            raise ValueError(f"expected a square number of patches, found {p}; pad the image to a square")
        if not 0 < tokens <= min(p, MAX_FINE) + g * g:
            raise ValueError(f"expected 1 to {min(p, MAX_FINE) + g * g} tokens for {p} patches, found {tokens}")

        # Candidates are the patches, then the gist cells. Relevance enters only through relevance_embed: that
        # is how gradients reach the allocator, the choice itself having none.
        member = gist_membership(s, g, device)  # [G, P]
        rel = relevance.relu()  # [B, P]
        features = torch.cat([image_features, member @ image_features], dim=1)  # [B, P+G, C]
        rels = torch.cat([rel, rel @ member.T], dim=1)  # [B, P+G]
        places = torch.cat([patch_positions(s, device), patch_positions(g, device)])  # [P+G, 2]

        indices = self.select(relevance.detach(), tokens)  # [B, T]
        x = features.gather(1, indices[:, :, None].expand(-1, -1, features.shape[-1]))  # [B, T, C]
        rel = rels.gather(1, indices)  # [B, T]
        kind = (indices < p).long()  # [B, T] 0 gist, 1 fine

        xn = self.norm(x)  # [B, T, C]
        distance = [(math.log(tokens) - log_budget) ** 2 for log_budget in self.log_budgets]  # E floats
        gate = (self.router(xn) - self.prior_sharpness.relu() * xn.new_tensor(distance)).softmax(-1)  # [B, T, E]
        h = torch.einsum("btc,ehc->beth", xn, self.fc1.weight) + self.fc1.bias[:, None]  # [B, E, T, hidden]
        y = torch.einsum("beth,edh->betd", F.gelu(h), self.fc2.weight) + self.fc2.bias[:, None]  # [B, E, T, D]
        y = torch.einsum("bte,betd->btd", gate, y)  # [B, T, D]
        # `weight[kind]` would be the same rows, but its gradient is summed in whatever order the threads
        # arrive.
        y = y + self.relevance_embed.weight * rel[:, :, None] + F.embedding(kind, self.kind_embed.weight)  # [B, T, D]
        return y, places[indices], indices
