"""The PyTorch reference of the composite ARR-COC model: what the exported graphs must compute.

Letters used in every shape comment of the package:

    B batch            P patches = s*s    C features per patch (SAM's output channels)
    Q query tokens     H decoder width    d allocator width, n its heads
    g gist cells per side, G = g*g        T visual tokens      D CLIP width
    E tiers (= experts)                   S prompt positions   V vocabulary
"""

from .allocator import Allocation, Allocator
from .compressor import Compressor
from .model import ArrCocOvis, CheckpointError
from .preprocess import Preprocessor
from .prompt import Prompter
from .quality_adapter import QualityAdapter

__all__ = [
    "Allocation",
    "Allocator",
    "ArrCocOvis",
    "CheckpointError",
    "Compressor",
    "Preprocessor",
    "Prompter",
    "QualityAdapter",
]
