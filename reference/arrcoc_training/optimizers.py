"""Which optimizer trains what."""

import torch
from torch import nn

from .step import Learner

WEIGHT_DECAY = 0.02


def freeze(learner: Learner, trained: list[str]) -> list[nn.Parameter]:
    """Leaves only the parts of these names to be trained; returns their parameters."""
    parts = learner.parts()
    learner.requires_grad_(False)
    for name in trained:
        parts[name].requires_grad_(True)
    return [p for p in learner.parameters() if p.requires_grad]


class Optimizers:
    """Muon for the matrices inside the networks, AdamW for all else: tables, heads, norms, biases, stacked experts.

    Muon: https://kellerjordan.github.io/posts/muon, with updates of AdamW's size (Moonlight, 2502.16982)."""

    def __init__(self, learner: Learner, rate: float):
        trained = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if is_hidden_matrix(name, p)]
        hidden = {id(p) for p in matrices}
        tables = [p for _, p in trained if p.dim() > 1 and id(p) not in hidden]
        vectors = [p for _, p in trained if p.dim() <= 1]
        groups = [{"params": tables, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.all = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
            self.all.append(muon)

    def set_rate(self, rate: float) -> None:
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.all:
            optimizer.step()

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    outside = ("embed", "rel_pos", "reader.", "codebook.", "neck.", "lm_head", "tier_head")
    return parameter.dim() == 2 and not any(part in name for part in outside)
