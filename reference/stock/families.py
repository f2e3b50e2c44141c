"""Which module draws, writes and reads a family."""

from pathlib import Path

from . import checkpoint, qwen, shapes

FAMILIES = shapes.FAMILIES + qwen.shapes.FAMILIES
Drawn = shapes.Drawn | qwen.shapes.Drawn


def draw(family: str, seed: int) -> Drawn:
    """The shapes of a seed."""
    if family not in FAMILIES:
        raise ValueError(f"expected a family of {', '.join(FAMILIES)}, found {family}")
    return (qwen.shapes if family in qwen.shapes.FAMILIES else shapes).draw(family, seed)


def write(drawn: Drawn, directory: Path, vocabulary: int | None = None) -> Path:
    """Writes the checkpoint; `vocabulary` as of `checkpoint.write`, and only of its families."""
    if drawn.family in qwen.shapes.FAMILIES:
        return qwen.checkpoint.write(drawn, directory)
    return checkpoint.write(drawn, directory, vocabulary)


def load(family: str, directory: Path) -> tuple:
    """The model, in fp32 whatever the files hold, and the processor, both read from the files."""
    return (qwen.checkpoint if family in qwen.shapes.FAMILIES else checkpoint).load(family, directory)
