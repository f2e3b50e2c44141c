"""Draws a training log: losses, accuracy by arm on held-out questions, and the quality adapter's statistics by tier.

    python plot_training.py --log DIR/log.jsonl --out training.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SMOOTH = 25  # lines
SHOWN = ("query_aware@16", "query_aware@64", "agnostic@64", "grid@64", "downsampled@64", "full@400")


def read(path: Path) -> list[dict]:
    """Lines in order; of what a resumed run did twice, what it did last. `at` counts steps over all phases."""
    lines: dict[tuple, dict] = {}
    lengths: dict[str, int] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        lengths[line["phase"]] = max(lengths.get(line["phase"], 0), line["step"])
        lines[line["phase"], line["step"], "validation" in line] = line
    starts, total = {}, 0
    for phase, length in lengths.items():
        starts[phase] = total
        total += length
    for line in lines.values():
        line["at"] = starts[line["phase"]] + line["step"]
    return sorted(lines.values(), key=lambda line: line["at"])


def smooth(values: list[float]) -> list[float]:
    return [sum(w := values[max(0, i - SMOOTH + 1) : i + 1]) / len(w) for i in range(len(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = read(args.log)
    validations = [line for line in lines if "validation" in line]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2))

    for name in ("reader", "alignment", "relevance", "task", "tier", "distribution", "sparsity", "consistency"):
        have = [line for line in lines if name in line]
        left.plot([line["at"] for line in have], smooth([line[name] for line in have]), label=name, linewidth=1)
    left.set(title="losses", xlabel="step", yscale="log", ylim=(1e-4, 20))

    for name in SHOWN:
        have = [line for line in validations if name in line["validation"]["exact"]]
        values = [line["validation"]["exact"][name] for line in have]
        middle.plot([line["at"] for line in have], values, label=name)
    middle.set(title="held-out one-place questions, exact match", xlabel="step", ylim=(0, 1))

    largest = 0.0
    for tier in validations[0]["validation"]["adapter"]:
        values = [line["validation"]["adapter"][tier]["std"] for line in validations]
        right.plot([line["at"] for line in validations], values, label=f"{tier} tokens")
        largest = max(largest, *values)
    right.set(title="quality adapter: standard deviation", xlabel="step", ylim=(0, 1.2 * largest))

    for axis in (left, middle, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(args.out, dpi=90)


if __name__ == "__main__":
    main()
