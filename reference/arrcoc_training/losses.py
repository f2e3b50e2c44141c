"""What training asks for besides right answers. Letters are those of arrcoc_reference's docstring."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arrcoc_ledger.labels import KINDS, SLOTS, SYMBOLS
from arrcoc_ledger.page import GLYPHS

PLACES = 16  # of glyphs in a patch


class PatchReader(nn.Module):
    """Reads from each patch what it shows: the loss that plays the part of SAM's and CLIP's pretraining. Thrown away
    after training."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.kind = nn.Linear(channels, KINDS)
        self.slots = nn.Linear(channels, SLOTS * len(SYMBOLS))
        self.glyphs = nn.Linear(channels, PLACES * (1 + len(GLYPHS)))

    def forward(self, image_features: Tensor, kind: Tensor, slots: Tensor, glyphs: Tensor) -> tuple[Tensor, Tensor]:
        """image_features [B, P, C], kind [B, P], slots [B, P, 5], glyphs [B, P, 16] -> loss [], and the share []
        of patches of items whose key and value are read without a mistake."""
        x = self.norm(image_features)  # [B, P, C]
        loss = F.cross_entropy(self.kind(x).flatten(0, 1).float(), kind.flatten())
        spelt = self.glyphs(x).unflatten(-1, (PLACES, -1)).float()  # [B, P, 16, 1 + glyphs]
        # Most places are empty: a glyph counts as much as five of them.
        weight = torch.cat([spelt.new_full((1,), 0.2), spelt.new_ones(len(GLYPHS))])  # [1 + glyphs]
        loss = loss + F.cross_entropy(spelt.flatten(0, 2), glyphs.flatten(), weight)
        shown = kind > 0  # [B, P]
        read = self.slots(x[shown]).unflatten(-1, (SLOTS, -1)).float()  # [patches, 5, symbols]
        loss = loss + F.cross_entropy(read.flatten(0, 1), slots[shown].flatten())
        right = (read.argmax(-1) == slots[shown]).all(-1).float().mean()
        return loss, right


class Codebook(nn.Module):
    """What a token that shows an item should be to the decoder: the sum of a vector for its kind, of the embeddings of the symbols
    of its key and value, turned by a matrix for each place, and of its relevance, which the compressor adds to every
    visual token. The decoder learns to answer from these before there are visual tokens, and visual tokens learn to
    resemble them. Thrown away after training.

    With a free vector per place and symbol the decoder would have to learn every letter's match by itself: it was at chance after 440
    steps, and at 0.29 exact match after 350 with these."""

    def __init__(self, width: int, symbol_ids: list[list[int]], vocabulary: int):
        """`symbol_ids`: the tokens of each of SYMBOLS."""
        super().__init__()
        self.kind = nn.Embedding(KINDS, width)
        self.relevance = nn.Parameter(torch.randn(width))
        self.turns = nn.Parameter(torch.stack([nn.init.orthogonal_(torch.empty(width, width)) for _ in range(SLOTS)]))
        spelling = torch.zeros(len(SYMBOLS), vocabulary)
        for row, ids in zip(spelling, symbol_ids, strict=True):
            for token in ids:
                row[token] = len(ids) ** -0.5
        self.register_buffer("spelling", spelling, persistent=False)  # [SYMBOLS, V]

    def forward(self, kind: Tensor, slots: Tensor, relevance: Tensor, table: Tensor) -> Tensor:
        """kind [B, T], slots [B, T, 5], relevance [B, T] in 0..1 -> [B, T, H] of mean 0 and the standard deviation of the
        decoder's table [V, H]."""
        std = table.detach().std()
        symbols = self.spelling @ (table / std)  # [SYMBOLS, H]
        turned = symbols @ self.turns  # [5, SYMBOLS, H]
        total = self.kind(kind) + 1.5 * relevance[:, :, None] * self.relevance  # [B, T, H]
        total = total + sum(turned[place][slots[..., place]] for place in range(SLOTS))  # [B, T, H]
        return F.layer_norm(total, total.shape[-1:]) * std


def alignment_loss(visual_embeds: Tensor, codes: Tensor, kind: Tensor) -> Tensor:
    """1 - cosine of tokens [B, T, H] and their codes [B, T, H]; tokens that show nothing (kind 0) count a tenth."""
    distance = 1 - F.cosine_similarity(visual_embeds.float(), codes.float(), dim=-1)  # [B, T]
    weight = torch.where(kind > 0, 1.0, 0.1)  # [B, T]
    return (distance * weight).sum() / weight.sum()


def relevance_loss(relevance: Tensor, evidence: Tensor) -> Tensor:
    """Binary cross-entropy against the generator's boxes; what little is evidence weighs as much as a tenth of the rest.
    relevance [N, P] in 0..1, evidence [N, P] bool."""
    with torch.autocast("cpu", enabled=False):
        relevance = relevance.float().clamp(1e-5, 1 - 1e-5)
        weight = torch.where(evidence, 6.0, 1.0)
        return F.binary_cross_entropy(relevance, evidence.float(), weight)


def tier_targets(evidence: Tensor, gist: int, budgets: list[int]) -> Tensor:
    """The smallest tier with room for the gist and one and a half times the evidence: [N, P] bool -> [N]."""
    needed = gist + 1.5 * evidence.sum(-1)  # [N]
    return (needed[:, None] > needed.new_tensor(budgets[:-1])).sum(-1)  # [N]


def distribution_loss(visual_embeds: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Distance of mean and standard deviation from those of the decoder's own input embeddings, in units of the latter."""
    found = visual_embeds.float()
    return ((found.mean() - mean) / std).square() + (found.std() / std).log().square()


def sparsity_loss(visual_embeds: Tensor, std: Tensor, target: float) -> Tensor:
    """Squared distance from the target share of values near zero; the step is softened to have a gradient."""
    near_zero = ((0.01 - visual_embeds.float().abs() / std) / 0.005).sigmoid().mean()
    # A smooth density has about 1% there by itself.
    return F.relu((near_zero - target).abs() - 0.01).square()


def consistency_loss(one: Tensor, other: Tensor) -> Tensor:
    """Heads of two tiers should say much the same about the same tokens: 1 - cosine of [N, T, H] and [N, T, H]."""
    return 1 - F.cosine_similarity(one.float(), other.float(), dim=-1).mean()
