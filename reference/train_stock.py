"""Trains a small stock `qwen3_vl` checkpoint that reads ARR-Ledger, with all of its visual tokens.

    python train_stock.py --out DIR [--config FILE] [--resume] [--threads 2] [--until HOURS]

DIR gets `state.pt` (everything that a resumed run needs, written every three minutes), `log.jsonl` (a line per
logged step and per validation) and `checkpoint/`, which is what transformers and `arrcoc-export` read. A killed
run goes on with --resume, which begins where there is nothing to resume; what it then sees is what it would have
seen.

The configuration: `model` has the widths and depths, `losses` their weights, `pages` what a page may hold,
`topics` the shares of the kinds of questions. `phases` run in order; each trains the parts it names and freezes
the rest. Every step shows one of its `pictures`, by `share` (at the beginning and when grown): `count` pictures of
`size` (width and height, pixels), `parts` of a page with up to so many `records`, and asks `questions` about each.
A phase grows over its first 0.6; pages may `harden` meanwhile. `decay`: the last part of a phase, over which the
rate falls.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import yaml

from arrcoc_stock_reader.run import Run

CONFIG = Path(__file__).parent / "arrcoc_stock_reader" / "stock-reader.yaml"

# Read when a process starts. Memory of a step is kept for the next one, and threads that wait leave the core
# to others: half of the time of a step on a busy machine.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_TOP_PAD_": str(2**28),
    "OMP_WAIT_POLICY": "PASSIVE",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--until", type=float, default=4.0, metavar="HOURS", help="of work of every thread, in all"
    )
    args = parser.parse_args()
    if any(name not in os.environ for name in ENVIRONMENT):
        os.execve(sys.executable, [sys.executable, *sys.argv], ENVIRONMENT | os.environ)
    torch.set_num_threads(args.threads)
    run = Run(yaml.safe_load(args.config.read_text()), args.out)
    if (args.out / "state.pt").exists():
        if not args.resume:
            raise SystemExit(
                f"{args.out} has a state.pt: go on with --resume, or train into another directory"
            )
        run.resume()
    else:
        run.log_file.unlink(missing_ok=True)
    run.run(args.until)


if __name__ == "__main__":
    main()
