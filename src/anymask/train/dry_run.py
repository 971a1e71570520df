"""What a run will need, measured on a few of its own steps."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from anymask.train.loop import Trainer


@dataclass(frozen=True)
class PhaseEstimate:
    """Of one phase. steps: how many it has. seconds: of one step, without waiting. wait: for data, in a step."""

    steps: int
    seconds: float
    wait: float
    photos: int

    @property
    def hours(self) -> float:
        """The whole phase."""
        return self.steps * (self.seconds + self.wait) / 3600


@dataclass(frozen=True)
class Estimate:
    """Parameters in all and trained, peak memory in bytes of this process or its GPU, and each phase."""

    parameters: int
    trained: int
    peak_bytes: int
    phases: list[PhaseEstimate]

    def __str__(self) -> str:
        lines = [
            f"parameters: {self.parameters:,}, of which {self.trained:,} are trained",
            f"memory:     {self.peak_bytes / 2**30:.2f} GiB at most, measured",
        ]
        start = 0
        for i, p in enumerate(self.phases, 1):
            lines.append(
                f"phase {i}:    steps {start} … {start + p.steps}: {p.seconds:.2f} s a step of {p.photos} photos "
                f"({p.photos / (p.seconds + p.wait):.2f} photos/s), waiting for data {p.wait:.2f} s, {p.hours:.2f} h"
            )
            start += p.steps
        return "\n".join([*lines, f"the run:    {sum(p.hours for p in self.phases):.2f} h on this machine"])


def estimate(trainer: Trainer, steps: int = 3) -> Estimate:
    """Run `steps` real steps of each phase after one to warm up; the trainer is used up, nothing is saved.

    A phase whose number of rounds is drawn anew each step is measured with its full number.
    """
    config, start, phases = trainer.config, 0, []
    for phase in config.phases:
        phase.fewer_rounds, drawn = False, phase.fewer_rounds
        waits, works = [], []
        trainer.step = start
        began = time.perf_counter()
        for batches, _ in trainer.feed().steps(start, min(start + steps + 1, phase.until_step)):
            loaded = time.perf_counter()
            trainer.train_step(batches, phase)
            done = time.perf_counter()
            waits.append(loaded - began)
            works.append(done - loaded)
            began = done
        phase.fewer_rounds = drawn
        seconds, wait = (sum(v[1:]) / len(v[1:]) if len(v) > 1 else v[0] for v in (works, waits))
        if drawn:  # rounds take most of a step, and half of the clicks are made on average
            seconds *= (1 + phase.num_clicks / 2 + phase.num_empty) / (1 + phase.num_clicks + phase.num_empty)
        photos = phase.photos * config.accumulate * trainer.processes.count
        phases.append(PhaseEstimate(phase.until_step - start, seconds, wait, photos))
        start = phase.until_step
    own = list(trainer.sam.parameters())
    trained = sum(p.numel() for p in own if p.requires_grad)
    return Estimate(sum(p.numel() for p in own), trained, peak_bytes(trainer.processes.device), phases)


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
