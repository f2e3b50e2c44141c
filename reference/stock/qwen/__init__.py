"""The Qwen families: Qwen3-VL, Qwen2.5-VL and Qwen3.5, drawn, saved and asked as the others are.

`shapes.py` draws, `tokens.py` makes tokenizer and template, `weights.py` fills, `checkpoint.py` writes and
reads, `inputs.py` says what the model gets beside the ids of a prompt.
"""

from . import checkpoint, inputs, shapes, tokens, weights

__all__ = ["checkpoint", "inputs", "shapes", "tokens", "weights"]
