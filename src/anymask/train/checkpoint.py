"""Saving and restoring a run: weights, averaged weights, optimiser, step. Everything random follows from the step.

`state.pt` holds whole tensors, however the run was spread over processes, so it can go on spread in another way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anymask.core.errors import CheckpointError
from anymask.core.files import write_aside
from anymask.train.changes import check_unchanged, stored_form

if TYPE_CHECKING:
    from anymask.train.loop import Trainer


def save_training_state(trainer: Trainer) -> None:
    """Write `state.pt` in the run's folder, whole or not at all; all processes must call it."""
    whole = trainer.processes.whole
    state = {
        "step": trainer.step,
        "model": whole(dict(trainer.sam.state_dict())),
        "average": whole(trainer.average.state),
        "optimizer": whole(trainer.optimizer.state_dict()),
        "affinity": whole(dict(trainer.affinity.state_dict())) if trainer.affinity else None,
        "parameter_names": parameter_names(trainer),
        "config": stored_form(trainer.config, trainer.processes.count),
    }
    if not trainer.processes.is_first:
        return
    path = trainer.out / "state.pt"
    try:
        with write_aside(path) as part:
            torch.save(state, part)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        before = "The checkpoint before it is intact" if path.exists() else "There was none before"
        raise CheckpointError(
            f"could not save step {trainer.step} to {path}: {reason}. Is the disk full? {before}; "
            "make room and run the same command to go on."
        ) from error


def load_training_state(trainer: Trainer, accept_changes: bool = False) -> None:
    """Restore what `save_training_state` wrote; refuses a configuration that makes it another run."""
    path = trainer.out / "state.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}); move it away to start anew.") from error
    if "config" in state:  # older files have none
        check_unchanged(state["config"], trainer.config, trainer.processes.count, accept_changes)
    trainer.step = state["step"]
    _fill(trainer, dict(trainer.sam.state_dict()), state["model"])
    _fill(trainer, trainer.average.state, state["average"])
    if trainer.affinity is not None and state["affinity"] is not None:
        _fill(trainer, dict(trainer.affinity.state_dict()), state["affinity"])
    _load_optimizer(trainer, state["optimizer"], state.get("parameter_names"))


@torch.no_grad()
def _fill(trainer: Trainer, own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Copy whole tensors into tensors that may be sharded."""
    if own.keys() != stored.keys():
        odd = ", ".join(sorted(own.keys() ^ stored.keys())[:5])
        raise CheckpointError(f"{trainer.out / 'state.pt'} is of another model (differs in {odd} …).")
    for key, value in own.items():
        value.copy_(trainer.processes.like(stored[key], value))


def _load_optimizer(trainer: Trainer, stored: dict[str, Any], names: list[str] | None) -> None:
    """Restore the optimiser by parameter names; learning rates and decays stay those of the configuration."""
    optimizer, own_names = trainer.optimizer, parameter_names(trainer)
    names = own_names if names is None else names  # older files rely on the order
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = optimizer.state_dict()
    if sorted(names) != sorted(own_names) or sum(len(g["params"]) for g in stored["param_groups"]) != len(parameters):
        raise CheckpointError(
            f"{trainer.out / 'state.pt'} trained {len(names)} parameters, this configuration trains {len(parameters)}, "
            "or others. Set back what is frozen, or start a new run."
        )
    place = {name: i for i, name in enumerate(own_names)}
    state = {}
    for number, entries in stored["state"].items():
        i = place[names[number]]
        state[i] = {k: trainer.processes.like(v, parameters[i]) if v.dim() else v for k, v in entries.items()}
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def parameter_names(trainer: Trainer) -> list[str]:
    """Names of the optimiser's parameters in its order."""
    modules = {"sam": trainer.sam, "affinity": trainer.affinity}
    known = {id(p): f"{k}.{n}" for k, m in modules.items() if m is not None for n, p in m.named_parameters()}
    return [known[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]
