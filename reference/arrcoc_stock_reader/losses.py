"""What training asks for besides right answers. Nothing of it is in the checkpoint."""

import torch
import torch.nn.functional as F
from arrcoc_ledger.labels import KINDS, SLOTS, SYMBOLS
from arrcoc_ledger.page import GLYPHS
from arrcoc_training.data import IGNORED
from torch import Tensor, nn

PLACES = 16  # of glyphs in a visual token


class Reader(nn.Module):
    """Reads from each visual token what it shows: the loss that plays the part of a tower's pretraining.

    `glyphs`, `kind` and `slots` are as the shipped composite's (`arrcoc_training/losses.py`). `words` is a loss
    of its own: a token should resemble the decoder's embeddings of the symbols that it shows, as it does in
    models that have learnt to transcribe. Selectors that compare rows with the question's embeddings rest on
    that."""

    def __init__(self, width: int, symbol_ids: list[list[int]], vocabulary: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Linear(width, KINDS)
        self.slots = nn.Linear(width, SLOTS * len(SYMBOLS))
        self.glyphs = nn.Linear(width, PLACES * (1 + len(GLYPHS)))
        self.sharpness = nn.Parameter(torch.tensor(2.5))
        spelling = torch.zeros(len(SYMBOLS), vocabulary)
        for row, ids in zip(spelling, symbol_ids, strict=True):
            for token in ids:
                row[token] = 1 / len(ids)
        self.register_buffer("spelling", spelling, persistent=False)  # [SYMBOLS, V]

    def forward(self, rows: Tensor, kind: Tensor, slots: Tensor, glyphs: Tensor, table: Tensor):
        """rows [G, T, H], kind [G, T], slots [G, T, 5], glyphs [G, T, 16], table [V, H] -> the losses [] and
        the share of tokens of whole items whose key and value are read without a mistake."""
        x = self.norm(rows)
        losses = {"kind": F.cross_entropy(self.kind(x).flatten(0, 1).float(), kind.flatten())}
        # Most places are empty: a glyph counts as much as five of them.
        weight = torch.cat([torch.full((1,), 0.2), torch.ones(len(GLYPHS))])
        spelt = self.glyphs(x).unflatten(-1, (PLACES, -1)).float()
        losses["glyphs"] = F.cross_entropy(spelt.flatten(0, 2), glyphs.flatten(), weight)
        shown = (kind > 0) & (slots[..., 0] != IGNORED)  # [G, T]
        wanted = slots[shown]  # [tokens, 5]
        read = self.slots(x[shown]).unflatten(-1, (SLOTS, -1)).float()  # [tokens, 5, symbols]
        losses["slots"] = F.cross_entropy(read.flatten(0, 1), wanted.flatten())
        words = self.spelling[wanted].sum(1)  # [tokens, V]
        words = words / words.sum(-1, keepdim=True).clamp(min=1e-6)
        alike = F.normalize(rows[shown].float(), dim=-1) @ F.normalize(table.float(), dim=-1).T
        losses["words"] = F.cross_entropy(alike * self.sharpness.exp(), words)
        right = (read.argmax(-1) == wanted).all(-1).float().mean()
        return losses, right


def pointing_loss(looks: Tensor, labels: Tensor, evidence: Tensor) -> Tensor:
    """Where an answer is written, the watched heads should look at tokens that show it. looks [G, K, L, T]
    logarithms of shares, labels [G, K, L], evidence [G, K, T] bool."""
    masked = looks.masked_fill(~evidence[:, :, None], float("-inf")).logsumexp(-1)  # [G, K, L]
    # The end of an answer needs no look.
    asked = (labels != IGNORED) & (labels.roll(-1, 2) != IGNORED) & evidence.any(-1)[:, :, None]
    return -masked[asked].clamp(min=-20).mean()
