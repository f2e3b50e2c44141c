"""Random weights that make a lively model: pictures matter, logits differ, and greedy answers wander."""

import math

import torch
from torch import nn


@torch.no_grad()
def fill(model: nn.Module, seed: int, tied: bool) -> None:
    """Fills every parameter, in the order of their names. Layers keep the magnitude of their inputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * deviation(name, parameter.shape, tied) + (1.0 if is_norm(name) else 0.0))


def is_norm(name: str) -> bool:
    return "norm" in name and name.endswith(".weight")


def deviation(name: str, shape: torch.Size, tied: bool) -> float:
    inputs = math.prod(shape[1:])
    if name.endswith(".bias"):
        return 0.1
    if is_norm(name):
        return 0.2
    if "position_embedding" in name:
        return 0.5
    if "embed_tokens" in name:
        # A tied table is the output's too, and a residual stream full of it would only repeat its last token.
        return 1.5 / math.sqrt(shape[1]) if tied else 1.0
    if "lm_head" in name:
        return 2.5 / math.sqrt(inputs)
    if "q_proj" in name or "k_proj" in name:
        return 1.6 / math.sqrt(inputs)
    return 1.2 / math.sqrt(inputs)
