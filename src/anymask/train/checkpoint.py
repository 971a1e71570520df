"""Saving and restoring a run: weights, averaged weights, optimiser, step. Everything random follows from the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anymask.core.files import write_aside

if TYPE_CHECKING:
    from anymask.train.loop import Trainer


def save_training_state(trainer: Trainer) -> None:
    """Write `state.pt` in the run's folder, whole or not at all."""
    state = {
        "step": trainer.step,
        "model": trainer.sam.state_dict(),
        "average": trainer.average,
        "optimizer": trainer.optimizer.state_dict(),
        "affinity": trainer.affinity.state_dict() if trainer.affinity else None,
    }
    with write_aside(trainer.out / "state.pt") as part:
        torch.save(state, part)


def load_training_state(trainer: Trainer) -> None:
    """Restore what `save_training_state` wrote."""
    state = torch.load(trainer.out / "state.pt", map_location="cpu", weights_only=True)
    trainer.step = state["step"]
    trainer.sam.load_state_dict(state["model"])
    trainer.average = state["average"]
    rates = [(g["peak_lr"], g["weight_decay"]) for g in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(state["optimizer"])
    for group, (lr, decay) in zip(trainer.optimizer.param_groups, rates):
        group["peak_lr"], group["weight_decay"] = lr, decay  # the recipe's, should it have changed
    if trainer.affinity is not None and state["affinity"] is not None:
        trainer.affinity.load_state_dict(state["affinity"])
