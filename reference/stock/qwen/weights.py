"""Random weights of a Qwen family: its pictures, the places of their patches and every tap matter."""

import math

import torch
from torch import nn

from .. import weights


@torch.no_grad()
def fill(model: nn.Module, seed: int, tied: bool) -> None:
    """Fills every parameter, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * deviation(name, parameter.shape, tied) + mean(name))


def mean(name: str) -> float:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        # Sharper than 1, at which rows of attention are almost flat.
        return 1.5
    return 1.0 if is_norm(name) else 0.0


def is_norm(name: str) -> bool:
    return weights.is_norm(name) or name.endswith("ln_q.weight")


def deviation(name: str, shape: torch.Size, tied: bool) -> float:
    if is_norm(name):
        return 0.2
    if "pos_embed" in name:
        return 1.0
    if name.endswith("qkv.weight"):
        return 1.5 / math.sqrt(shape[1])
    return weights.deviation(name, shape, tied)
