"""Trains the reference checkpoint on ARR-Ledger.

    python train.py --config ../configs/train/reference.yaml --out DIR [--resume] [--checkpoint-every N]

DIR gets `state.pt` (everything that a resumed run needs), `log.jsonl` (a line per logged step and per validation) and
`checkpoint/`, which is what `arrcoc-export` reads, and `arms/`, which is what `arrcoc-serve eval` reads besides. A killed run
goes on with --resume; what it then sees is what it would have seen.

The configuration: `model` has the widths and depths, `losses` their weights, `pages` what a page may hold, `topics` the shares of
the kinds of questions, `arms` and `budgets` the shares of what the compressor is given. A phase's `data` is `patches` (no
questions), `codes` (pages that nobody has drawn) or, by default, the whole chain. `phases` run in order: each trains the parts it
names and freezes the rest, over pages of `records` many records (growing over the phase's first half, and everything else with
them where `fill` is `geometrically`): `pages` pages, `talks` conversations about each, `turns` questions in each. A phase may have
`arms`, `budgets`, `topics`, `losses` and `limits` (of `pages`) of its own, and `harden` pages as it goes on.
"""

import argparse
import copy
import json
import os
import random
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Subset
from write_checkpoint import write_assets

from arrcoc_ledger import SIZE
from arrcoc_reference import ArrCocOvis
from arrcoc_reference.arms import Arm
from arrcoc_training.assets import config as checkpoint_config
from arrcoc_training.assets import tokenizer
from arrcoc_training.data import Pages
from arrcoc_training.initialise import initialise
from arrcoc_training.optimizers import Optimizers, freeze
from arrcoc_training.step import Choice, Learner, step, step_codes, step_patches
from arrcoc_training.validate import aim_adapter, rebase_adapter, set_adapter_target, validate

LOG_EVERY = 20
WARM_UP = 100  # steps of each phase
GRADIENT_CLIP = 1.0


class Run:
    """One training run: what it learns, where it is, and what it writes."""

    def __init__(self, config: dict, out: Path):
        self.config, self.out = config, out
        torch.manual_seed(config["seed"])
        self.tok = tokenizer()
        self.learner = Learner(ArrCocOvis(checkpoint_config(self.tok, config["model"])), self.tok)
        initialise(self.learner.model, config["seed"])
        self.phase, self.step = 0, 0
        self.optimizer_state = None
        out.mkdir(parents=True, exist_ok=True)

    def log(self, line: dict) -> None:
        line = {"phase": self.config["phases"][self.phase]["name"], "step": self.step, **line}
        line = {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, optimizer: Optimizers | None) -> None:
        """None: between phases. Each phase's optimizer starts afresh."""
        state = {
            "learner": self.learner.state_dict(), "optimizer": optimizer and optimizer.state_dict(),
            "phase": self.phase, "step": self.step, "config": self.config,
            "adapter_target": [self.learner.model.quality_adapter.target_mean, self.learner.model.quality_adapter.target_std],
        }  # fmt: skip
        torch.save(state, self.out / "state.tmp")
        os.replace(self.out / "state.tmp", self.out / "state.pt")

    def resume(self) -> None:
        state = torch.load(self.out / "state.pt", weights_only=True)
        done = state["phase"] + (state["step"] > 0)
        if begun(state["config"], done) != begun(self.config, done):
            raise SystemExit(f"{self.out} was trained with another configuration; restore it, or train into another directory")
        self.learner.load_state_dict(state["learner"])
        set_adapter_target(self.learner.model, *state["adapter_target"])
        self.phase, self.step, self.optimizer_state = state["phase"], state["step"], state["optimizer"]

    def write_checkpoint(self) -> None:
        """What the exporter reads; beside it the neck of the comparison's strided grid."""
        directory = self.out / "checkpoint"
        write_assets(directory, SIZE, self.tok)
        model = copy.deepcopy(self.learner.model)  # training goes on with the targets that it began with
        rebase_adapter(model)
        model.save_pretrained(directory, torch.float16)
        neck = {name: p.detach().half() for name, p in self.learner.neck.named_parameters()}
        (self.out / "arms").mkdir(exist_ok=True)
        save_file(neck, self.out / "arms" / "grid_neck.safetensors")

    def choice(self) -> Choice:
        rng = random.Random(f"{self.config['seed']}/choice/{self.phase}/{self.step}")
        phase = self.config["phases"][self.phase]
        arms, budgets = (phase.get(key, self.config[key]) for key in ("arms", "budgets"))
        arm = Arm(rng.choices(list(arms), list(arms.values()))[0])
        budget = rng.choices(list(budgets), list(budgets.values()))[0]
        return Choice(arm, max(self.learner.model.budgets) if arm is Arm.FULL else budget)

    def loss(self, item, phase: dict):
        seed = hash((self.config["seed"], self.phase, self.step)) & 0x7FFFFFFF
        with torch.autocast("cpu", torch.bfloat16):
            match phase.get("data", "questions"):
                case "codes":
                    return step_codes(self.learner, item, seed)
                case "patches":
                    return step_patches(self.learner, item)
                case _:
                    return step(self.learner, item, self.choice(), self.config["losses"] | phase.get("losses", {}), seed)

    def run_phase(self, checkpoint_every: int) -> None:
        phase = self.config["phases"][self.phase]
        earlier = self.config["phases"][: self.phase]
        if self.step == 0 and "quality_adapter" in phase["train"] and all("quality_adapter" not in p["train"] for p in earlier):
            aim_adapter(self.learner.model)
        parameters = freeze(self.learner, phase["train"])
        optimizer = Optimizers(self.learner, phase["lr"])
        if self.optimizer_state:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        data = Pages(self.config, phase, self.tok, self.config["seed"])
        rest = Subset(data, range(self.step, phase["steps"]))
        loader = DataLoader(rest, batch_size=None, num_workers=1, prefetch_factor=4)
        began = time.monotonic()
        self.learner.train()
        for item in loader:
            rate = phase["lr"] * learning_rate(self.step, phase["steps"])
            optimizer.set_rate(rate)
            loss, line = self.loss(item, phase)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            if torch.isfinite(norm):
                optimizer.step()
            self.step += 1
            if self.step % LOG_EVERY == 0 or "arm" in line:
                self.log(line | {"seconds": time.monotonic() - began, "gradient": norm.item()})
            if self.step % checkpoint_every == 0:
                self.save(optimizer)
                if phase.get("data", "questions") == "questions":
                    self.log({"validation": validate(self.learner, self.config, self.tok)})
                    self.write_checkpoint()
        self.phase, self.step = self.phase + 1, 0
        self.save(None)

    def run(self, checkpoint_every: int) -> None:
        while self.phase < len(self.config["phases"]):
            self.run_phase(checkpoint_every)
        self.write_checkpoint()


def begun(config: dict, phases: int) -> dict:
    """What a run that began so many phases may have seen of its configuration: later phases may still change."""
    return config | {"phases": config["phases"][:phases]}


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, level, then linearly to a twentieth over the second half: a share of the phase's rate."""
    warm = min(1.0, (step + 1) / WARM_UP)
    left = (steps - step) / (0.5 * steps)
    return warm * max(0.05, min(1.0, left))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--checkpoint-every", type=int, default=500)
    args = parser.parse_args()
    run = Run(yaml.safe_load(args.config.read_text()), args.out)
    if args.resume and (args.out / "state.pt").exists():
        run.resume()
    else:
        (args.out / "log.jsonl").unlink(missing_ok=True)
    run.run(args.checkpoint_every)


if __name__ == "__main__":
    main()
