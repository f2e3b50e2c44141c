"""The model and what only its training needs; one step's loss. Letters are those of `forward.py`."""

import torch
import torch.nn.functional as F
from arrcoc_training.data import IGNORED
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import forward
from .data import TOKEN, Batch, Text, symbol_ids
from .losses import Reader, pointing_loss
from .model import build


class Learner(nn.Module):
    def __init__(self, config: dict, tok: Tokenizer):
        super().__init__()
        self.text = Text(tok)
        self.model = build(tok, config["model"], config["seed"])
        generator = torch.random.get_rng_state()
        torch.manual_seed(config["seed"])
        width = config["model"]["text"]["hidden_size"]
        self.reader = Reader(width, symbol_ids(self.text), tok.get_vocab_size())
        torch.random.set_rng_state(generator)
        self.before = torch.tensor(self.text.before)
        self.watched = config["watched_layer"]

    def parts(self) -> dict[str, nn.Module]:
        """What a phase's `train` may name."""
        return {
            "tower": self.model.model.visual,
            "text": self.model.model.language_model,
            "reader": self.reader,
        }

    def see(self, pixels: Tensor, tapped: bool = True) -> tuple[Tensor, list[Tensor]]:
        return forward.tower(self.model.model.visual, pixels, tapped)

    def read(self, rows: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        table = self.model.model.language_model.embed_tokens.weight
        return self.reader(rows, batch.kind, batch.slots, batch.glyphs, table)

    def answer(self, rows: Tensor, taps: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of the answers and of where they were looked for [], and which answers are right to the
        last token [G, K]: greedy decoding would give them."""
        text = self.model.model.language_model
        grid = batch.pixels.shape[1] // TOKEN, batch.pixels.shape[2] // TOKEN
        decoded = forward.decode(text, self.before, rows, taps, grid, batch.branches, self.watched)
        asked = batch.labels != IGNORED  # [G, K, L]
        logits = F.linear(decoded.hidden[asked], text.embed_tokens.weight).float()  # [answers' tokens, V]
        labels = batch.labels[asked]
        wrong = torch.zeros(asked.shape, dtype=torch.bool)
        wrong[asked] = logits.argmax(-1) != labels
        pointing = pointing_loss(decoded.looks, batch.labels, batch.evidence)
        return F.cross_entropy(logits, labels), pointing, ~wrong.any(-1)

    def forward(self, batch: Batch, weights: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
        """The weighted loss, and what to log."""
        asked = batch.branches.numel() > 0
        rows, taps = self.see(batch.pixels, tapped=asked)
        losses, read = self.read(rows, batch)
        log = {"read": read.item()}
        if asked:
            losses["task"], losses["pointing"], right = self.answer(rows, taps, batch)
            log["exact"] = right.float().mean().item()
        log |= {name: loss.item() for name, loss in losses.items()}
        return sum(weights[name] * loss for name, loss in losses.items()), log
