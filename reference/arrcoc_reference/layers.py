"""What several of our own networks share. Letters are those of the package's docstring."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
VARIANCE_EPS = 1e-6


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # [..., inputs] -> [..., outputs]


class Weight(nn.Module):
    """A bare `weight`."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)


class Stacked(Weight):
    """A weight and a bias for each of E experts, stacked on the first axis."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__(weight)
        self.bias = nn.Parameter(bias)


def stacked_linear(experts: int, inputs: int, outputs: int) -> Stacked:
    return Stacked(torch.randn(experts, outputs, inputs) / inputs**0.5, torch.zeros(experts, outputs))
