"""The training loop: batches → rounds → losses → step, with exact resume."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from anymask.core.allocator import keep_freed_memory
from anymask.core.errors import AnymaskError
from anymask.data.augment import Augmentation
from anymask.data.loader import Batch, PromptDataset, collate, set_up_worker
from anymask.data.readers import Photo
from anymask.model.lite_encoder import imagenet_backbone_weights
from anymask.model.precision import pick_device, pick_dtype
from anymask.model.presets import build_sam
from anymask.model.sam import Sam
from anymask.train.affinity import AffinityHead
from anymask.train.checkpoint import load_training_state, save_training_state
from anymask.train.clicks import round_plan
from anymask.train.config import Phase, TrainConfig
from anymask.train.losses import LossWeights
from anymask.train.optimizer import lr_factor, parameter_groups
from anymask.train.rounds import run_rounds
from anymask.train.show import progress
from anymask.train.start import start_from, tie_positions
from anymask.weights.save import save_model


class TrainingError(AnymaskError, RuntimeError):
    """The run cannot go on; the last checkpoint is intact."""


class Trainer:
    """Model, optimiser and their averaged copy; `run` trains until the last phase ends."""

    def __init__(self, config: TrainConfig, photos: list[Photo], out: Path) -> None:
        keep_freed_memory()
        torch.manual_seed(config.seed)
        self.config, self.photos, self.out = config, photos, out
        self.sam = build_sam(
            config.model,
            decoder_depth=config.decoder_depth,
            dropout=config.dropout,
            drop_path_rate=config.drop_path,
        ).train()
        self.sam.image_encoder.gradient_checkpointing = config.gradient_checkpointing
        if config.model == "lite":
            self.sam.image_encoder.backbone.load_state_dict(imagenet_backbone_weights())
            self.sam.image_encoder.to(memory_format=torch.channels_last)
        if config.tie_positions:
            tie_positions(self.sam)
        if config.init:
            start_from(self.sam, Path(config.init), config.init_prefixes)
        for name, parameter in self.sam.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(config.freeze)))
        self.affinity = AffinityHead() if config.affinity else None
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.precision, self.device)
        modules: list[nn.Module] = [self.sam] + ([self.affinity] if self.affinity else [])
        for module in modules:
            module.to(self.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(modules, config), betas=(0.9, 0.999))
        self.average = {k: v.detach().clone().float() for k, v in self.sam.state_dict().items()}
        self.step = 0

    def run(self, stop_at: int | None = None) -> None:
        """Train to the last phase's end, or to step `stop_at`; go on where `out` holds a run.

        Saves every `save_every` steps and at SIGTERM; writes `model.safetensors` (averaged weights) at the end.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "state.pt").exists():
            load_training_state(self)
            print(f"going on from step {self.step}", flush=True)
        stopping: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
        end = min(self.config.total_steps, stop_at or self.config.total_steps)
        with progress(self.step, end) as show:
            for batch, phase in self._batches(end):
                log = self._train_step(batch, phase)
                self.step += 1
                with (self.out / "log.jsonl").open("a") as file:
                    file.write(json.dumps({"step": self.step, **log}) + "\n")
                show(self.step, phase.photos, log["rounds"])
                if self.step % self.config.save_every == 0 or self.step == end or stopping:
                    save_training_state(self)
                if stopping:
                    return
        if self.step == self.config.total_steps:
            about = {"steps": str(self.step)}
            save_model(averaged_model(self), self.out / "model.safetensors", self.config.model, about, half=True)
            print(f"{self.out / 'model.safetensors'}: load it with --checkpoint, or anymask.load_model(path)")

    def _batches(self, end: int) -> Iterator[tuple[Batch, Phase]]:
        """Batches from the current step on; sample numbers follow from the step, so a restart repeats nothing."""
        config, done, first_sample = self.config, 0, 0
        for phase in config.phases:
            begin, until = max(done, self.step), min(phase.until_step, end)
            offset = first_sample + (begin - done) * phase.photos
            first_sample += (phase.until_step - done) * phase.photos
            done = phase.until_step
            if begin >= until:
                continue
            dataset = PromptDataset(
                self.photos,
                side=phase.image_size,
                masks_per_photo=max(phase.masks, config.affinity_masks if self.affinity else 0),
                length=offset + (until - begin) * phase.photos,
                augmentation=Augmentation(tuple(config.scale), config.flip, config.color),  # type: ignore[arg-type]
                seed=config.seed,
                balance=config.balance,
                min_area_px=phase.min_area_px,
            )
            loader = DataLoader(
                Subset(dataset, range(offset, len(dataset))),
                batch_size=phase.photos,
                num_workers=config.loader_workers,
                collate_fn=collate,
                worker_init_fn=set_up_worker,
                prefetch_factor=4 if config.loader_workers else None,
            )
            for batch in loader:
                yield batch, phase

    def _train_step(self, batch: Batch, phase: Phase) -> dict[str, Any]:
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # clicks and noise follow from the step
        config, sam = self.config, self.sam
        factor = lr_factor(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        images = (batch.images.to(self.device) - sam.pixel_mean) / sam.pixel_std
        images, masks = torch.nan_to_num(images), batch.masks.to(self.device)
        with self._autocast():
            full = sam.image_encoder(images.contiguous(memory_format=torch.channels_last))  # (B, C, S/stride, S/stride)
        leaf = full.detach().float().requires_grad_()  # the decoder's graph is freed photo by photo
        cells = phase.cells or full.shape[-1]
        b = len(batch.names)
        num_clicks = phase.num_clicks
        if phase.fewer_rounds:
            num_clicks = int(torch.randint(0, num_clicks + 1, ()))
        rounds, log = [], {}
        plan = round_plan(num_clicks, phase.num_empty)
        weights = LossWeights(**asdict(config.losses))
        for i in range(b):
            pooled = leaf[i : i + 1]
            if cells != full.shape[-1]:
                pooled = F.adaptive_avg_pool2d(pooled, cells)
            embedding = pooled.detach().requires_grad_()

            def backward(loss: Tensor, name: str = batch.names[i]) -> None:
                self._check_finite(loss, name)
                (loss / b).backward()  # type: ignore[no-untyped-call]

            with self._autocast():
                result = run_rounds(
                    sam,
                    embedding,
                    masks[i, : phase.masks],
                    phase.image_size,
                    plan,
                    weights,
                    config.box_chance,
                    config.through_time,
                    None if config.through_time else backward,
                )
            if config.through_time:
                backward(result.loss)
            torch.autograd.backward(pooled, embedding.grad)
            rounds.append(result.per_round)
        if self.affinity is not None:
            with self._autocast():
                loss = self.affinity(leaf, masks)
            (config.affinity * loss).backward()
            log["affinity"] = loss.item()
        torch.autograd.backward(full, leaf.grad.to(full.dtype))
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        log["grad_norm"] = nn.utils.clip_grad_norm_(parameters, config.clip_norm).item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()
        log["rounds"] = [mean_of_known([r[j] for r in rounds]) for j in range(len(rounds[0]))]
        return log

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _check_finite(self, loss: Tensor, name: str) -> None:
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss of photo {name!r} is {loss.item()} at step {self.step}. Lower the learning rate or look at "
                f"that photo; the last checkpoint in {self.out} is intact."
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.sam.state_dict().items():
            self.average[key].lerp_(value.float(), 1 - decay)


def mean_of_known(entries: list[dict[str, float | None]]) -> dict[str, float]:
    """Mean of each key over the entries that have a value for it."""
    known = {k: [v for e in entries if (v := e[k]) is not None] for k in entries[0]}
    return {k: sum(v) / len(v) for k, v in known.items() if v}


def averaged_model(trainer: Trainer) -> Sam:
    """The model with the averaged weights, in evaluation mode."""
    sam = build_sam(trainer.config.model, decoder_depth=trainer.config.decoder_depth)
    sam.load_state_dict(trainer.average)
    return sam.eval()
