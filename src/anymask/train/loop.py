"""The training loop: batches → rounds → losses → step, with exact resume."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anymask.core.allocator import keep_freed_memory
from anymask.data.loader import Batch
from anymask.data.readers import Photo
from anymask.data.subset import subset
from anymask.model.sam import Sam
from anymask.train.affinity import AffinityHead
from anymask.train.average import Average
from anymask.train.build import build_trainable, plain_model
from anymask.train.cache import EmbeddingCache, encoder_key
from anymask.train.checkpoint import load_training_state, save_training_state
from anymask.train.config import Phase, TrainConfig
from anymask.train.curves import Curves
from anymask.train.feed import Feed
from anymask.train.journal import Journal
from anymask.train.optimizer import lr_factor, parameter_groups
from anymask.train.photo_rounds import PhotoRounds, TrainingError, check_finite, step_plan, summarise
from anymask.train.processes import processes_of_this_run, total_norm
from anymask.train.rounds import Shown
from anymask.train.show import progress
from anymask.weights.lock import locked
from anymask.weights.save import save_model

__all__ = ["StepResult", "Trainer", "TrainingError", "averaged_model"]


@dataclass(frozen=True)
class StepResult:
    """log: means over the photos of all processes, as written to `log.jsonl`. shown: one mask. stop: asked to leave."""

    log: dict[str, Any]
    shown: Shown
    stop: bool


class Trainer:
    """Model, optimiser and their averaged copy; `run` trains until the last phase ends."""

    def __init__(self, config: TrainConfig, photos: Sequence[Photo], out: Path) -> None:
        keep_freed_memory()
        self.processes = processes_of_this_run(config.device, config.sharding)
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.photos = subset(photos, config.share, config.repeats, config.seed)
        self.sam = build_trainable(config)
        self.affinity = AffinityHead() if config.affinity else None
        self.rounds = self.processes.wrap(
            PhotoRounds(config, self.sam, self.affinity, touch=self.processes.count > 1)
        )
        modules: list[nn.Module] = [self.sam] + ([self.affinity] if self.affinity else [])
        on_cpu = self.sam.pixel_mean.device.type == "cpu"  # there the fused step takes a third of the time
        self.optimizer = torch.optim.AdamW(parameter_groups(modules, config), betas=(0.9, 0.999), fused=on_cpu or None)
        self.average = Average(self.sam, config.ema)
        self.step = 0
        self.asked_to_stop = False

    def run(self, stop_at: int | None = None, accept_changes: bool = False) -> None:
        """Train to the last phase's end, or to step `stop_at`; go on where `out` holds a run.

        Saves every `save_every` steps and at SIGTERM; writes `model.safetensors` (averaged weights) at the end. Waits
        while another training holds `out`.
        accept_changes: go on with a configuration that differs from the stored run's (see `train.changes`).
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            if self.processes.is_first:
                waits = f"another training holds {self.out}; waiting for its end"
                held.enter_context(locked(self.out / "run", lambda: self._say(waits)))
            self.processes.gather([None])  # the others wait for the first
            self._run(stop_at, accept_changes)

    def _run(self, stop_at: int | None, accept_changes: bool) -> None:
        if (self.out / "state.pt").exists():
            load_training_state(self, accept_changes)
            self._say(f"going on from step {self.step}")
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked_to_stop", True))
        end = min(self.config.total_steps, stop_at or self.config.total_steps)
        first = self.processes.is_first
        journal, feed = Journal(self.out / "log.jsonl"), self.feed()
        if first:
            journal.forget_after(self.step)
        curves = Curves(self.out / "curves", self.step, wanted=first and self.config.curves)
        waiting = time.perf_counter()
        with closing(feed.steps(self.step, end)) as steps, progress(self.step, end, quiet=not first) as show:
            for batches, phase in steps:
                began = time.perf_counter()
                result = self.train_step(batches, phase)
                seconds = {"wait_s": round(began - waiting, 4), "step_s": round(time.perf_counter() - began, 4)}
                if first:
                    journal.add({"step": self.step, **result.log, **seconds})
                    curves.write(self.step, {**result.log, **seconds})
                    if self.step % self.config.pictures_every == 0:
                        curves.picture(self.step, batches[0], result.shown)
                show(self.step, phase.photos * len(batches) * self.processes.count, result.log["rounds"])
                if self.step % self.config.save_every == 0 or self.step == end or result.stop:
                    save_training_state(self)
                if result.stop:
                    break
                waiting = time.perf_counter()
        curves.close()
        if self.step == self.config.total_steps:
            self._write_model()

    def train_step(self, batches: list[Batch], phase: Phase) -> StepResult:
        """One step of the optimiser on this process's batches."""
        factor = lr_factor(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        plan = step_plan(self.config, phase, self.step)
        photos, affinity, shown = [], [], None
        for i, batch in enumerate(batches):
            with self.processes.sharing(self.rounds, last=i == len(batches) - 1):
                place = (self.step, i, self.processes.rank)
                rest, log, auxiliary, shown = self.rounds(batch, phase, plan, place, 1 / len(batches))
                if rest is not None:
                    rest.backward()
            photos += log
            affinity += [] if auxiliary is None else [auxiliary]
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        norm = total_norm(parameters, self.config.clip_norm)
        check_finite(torch.tensor(norm), ", ".join(name for batch in batches for name in batch.names))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        told = self.processes.gather([(photos, affinity, self.asked_to_stop)])
        photos = [photo for entry in told for photo in entry[0]]
        affinity = [value for entry in told for value in entry[1]]
        log = summarise({"lr": self.config.lr * factor, "grad_norm": norm}, photos)
        if affinity:
            log["affinity"] = sum(affinity) / len(affinity)
        assert shown is not None
        return StepResult(log, shown, any(entry[2] for entry in told))

    def feed(self) -> Feed:
        """This process's batches; fills the embedding cache first where the configuration asks for one."""
        side = int(self.sam.image_encoder.img_size)
        processes = self.processes
        cache = None
        if self.config.cache_embeddings:
            folder = Path(self.config.cache_dir) if self.config.cache_dir else self.out / "embeddings"
            cache = EmbeddingCache(folder, encoder_key(self.sam))
            for phase_side in sorted({phase.image_size or side for phase in self.config.phases}):
                cache.fill(self.sam, self.photos[processes.rank :: processes.count], phase_side, self.config, self._say)
            processes.gather([None])  # all have filled their share
        return Feed(self.photos, self.config, side, processes.rank, processes.count, cache)

    def _write_model(self) -> None:
        model = averaged_model(self)
        if self.processes.is_first:
            path = self.out / "model.safetensors"
            save_model(model, path, self.config.model, {"steps": str(self.step)}, half=True)
            self._say(f"{path}: load it with --checkpoint, or anymask.load_model(path)")

    def _say(self, text: str) -> None:
        if self.processes.is_first:
            print(text, flush=True)


def averaged_model(trainer: Trainer) -> Sam:
    """The model with the averaged weights, in evaluation mode; all processes must ask."""
    return plain_model(trainer.config, trainer.processes.whole(trainer.average.state))
