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
        parameter.copy_(noise * deviation(name, parameter.shape, tied) + mean(name, model.config.model_type))


def mean(name: str, family: str) -> float:
    if name.endswith("A_log"):
        # A state that lasts for a few tokens up to some hundreds.
        return -3.0
    if not is_norm(name):
        return 0.0
    plain = 1.0
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        # Rows of attention are almost flat where these are 1. Qwen3.5 rotates a part of a head alone.
        plain = 2.5 if family == "qwen3_5" else 1.5
    # Qwen3.5's decoder adds 1 to them, but not in its gated norm.
    added = family == "qwen3_5" and "language_model" in name and "linear_attn" not in name
    return plain - 1.0 if added else plain


def is_norm(name: str) -> bool:
    return weights.is_norm(name) or name.endswith("ln_q.weight")


def deviation(name: str, shape: torch.Size, tied: bool) -> float:
    if is_norm(name):
        return 0.2
    if "pos_embed" in name or name.endswith(("A_log", "dt_bias")):
        return 1.0
    if name.endswith("qkv.weight"):
        return 1.5 / math.sqrt(shape[1])
    return weights.deviation(name, shape, tied)
