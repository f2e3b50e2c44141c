"""One training run: what it learns, where it is, and what it writes."""

import json
import os
import time
from pathlib import Path

import torch
from arrcoc_ledger import SIZE
from arrcoc_training.optimizers import Optimizers, freeze
from torch import nn
from torch.utils.data import DataLoader, Subset

from .data import Pages
from .learner import Learner
from .model import save, tokenizer
from .validate import validate

LOG_EVERY = 20
SAVE_EVERY = 180  # seconds
WARM_UP = 100  # steps of each phase
GRADIENT_CLIP = 1.0


class Run:
    def __init__(self, config: dict, out: Path):
        self.config, self.out = config, out
        self.tok = tokenizer()
        self.learner = Learner(config, self.tok)
        self.phase, self.step, self.seconds, self.processor = 0, 0, 0.0, 0.0
        self.optimizer_state = None
        out.mkdir(parents=True, exist_ok=True)

    @property
    def log_file(self) -> Path:
        return self.out / "log.jsonl"

    def log(self, line: dict) -> None:
        line = {"phase": self.config["phases"][self.phase]["name"], "step": self.step, **line}
        line = {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}
        with self.log_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, optimizer: Optimizers | None) -> None:
        """All that a resumed run needs, or what stood there before. None: between phases, whose optimizers
        start afresh."""
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": optimizer and optimizer.state_dict(),
            "phase": self.phase,
            "step": self.step,
            "seconds": self.seconds,
            "processor": self.processor,
            "config": self.config,
            "random": torch.get_rng_state(),
            "log": self.log_file.stat().st_size if self.log_file.exists() else 0,
        }
        with (self.out / "state.tmp").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.out / "state.tmp", self.out / "state.pt")

    def resume(self) -> None:
        state = torch.load(self.out / "state.pt", weights_only=True)
        done = state["phase"] + (state["step"] > 0)
        if begun(state["config"], done) != begun(self.config, done):
            raise SystemExit(
                f"{self.out} was trained with another configuration: restore it, or train elsewhere"
            )
        self.learner.load_state_dict(state["learner"])
        torch.set_rng_state(state["random"])
        self.phase, self.step = state["phase"], state["step"]
        self.seconds, self.processor = state["seconds"], state["processor"]
        self.optimizer_state = state["optimizer"]
        # What was logged behind the state will be logged again.
        if self.log_file.exists():
            os.truncate(self.log_file, state["log"])

    def check(self) -> None:
        """Held-out answers into the log, and the checkpoint as it is now."""
        self.log(
            {"validation": validate(self.learner, self.config["topics"], self.config["validation_pages"])}
        )
        self.write_checkpoint()

    def write_checkpoint(self) -> None:
        save(self.learner.model, self.out / "checkpoint", SIZE)

    def run_phase(self, until: float) -> bool:
        """`until`: seconds of processors. Whether the phase was ended, rather than the time."""
        phase = self.config["phases"][self.phase]
        parameters = freeze(self.learner, phase["train"])
        optimizer = Optimizers(self.learner, phase["lr"])
        if self.optimizer_state:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        data = Pages(self.config, phase, self.tok)
        rest = Subset(data, range(self.step, phase["steps"]))
        loader = DataLoader(rest, batch_size=None, num_workers=1, prefetch_factor=4)
        weights = self.config["losses"] | phase.get("losses", {})
        clock = saved = time.monotonic()
        used = time.process_time()
        self.learner.train()
        for batch in loader:
            optimizer.set_rate(
                phase["lr"] * learning_rate(self.step, phase["steps"], phase.get("decay", 0.5))
            )
            with torch.autocast("cpu", torch.bfloat16):
                loss, line = self.learner(batch, weights)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            if torch.isfinite(norm):
                optimizer.step()
            self.step += 1
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            self.processor, used = self.processor + time.process_time() - used, time.process_time()
            if self.step % LOG_EVERY == 0:
                self.log(
                    line | {"gradient": norm.item(), "seconds": self.seconds, "processor": self.processor}
                )
            if self.step % phase["validate_every"] == 0:
                self.check()
            late = self.processor >= until
            if late or now - saved >= SAVE_EVERY:
                self.save(optimizer)
                saved = time.monotonic()
            if late:
                return False
        if phase["steps"] % phase["validate_every"]:
            self.check()
        self.phase, self.step = self.phase + 1, 0
        self.save(None)
        return True

    def run(self, hours: float) -> None:
        """Until the phases have ended or every thread has worked so many hours, those before a resumption
        included: on a busy machine that is longer by the clock."""
        until = hours * 3600 * torch.get_num_threads()
        while self.phase < len(self.config["phases"]):
            if not self.run_phase(until):
                self.write_checkpoint()
                return


def begun(config: dict, phases: int) -> dict:
    """What a run that began so many phases may have seen of its configuration: later ones may still change."""
    return config | {"phases": config["phases"][:phases]}


def learning_rate(step: int, steps: int, decay: float) -> float:
    """Linear warm-up, level, then linearly to a twentieth over the last part of `decay`: a share of the rate."""
    warm = min(1.0, (step + 1) / WARM_UP)
    left = (steps - step) / (decay * steps)
    return warm * max(0.05, min(1.0, left))
