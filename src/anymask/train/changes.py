"""What may differ between a stored run and the configuration that goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from anymask.core.errors import OptionError
from anymask.train.config import Phase, TrainConfig

FREE: dict[str, str] = {
    "lr": "learning rates are read anew at every step",
    "encoder_lr": "as lr",
    "backbone_lr": "as lr",
    "layer_decay": "as lr",
    "weight_decay": "read anew at every step",
    "warmup_steps": "the schedule is a function of the step",
    "decay_steps": "as warmup_steps",
    "lr_milestones": "as warmup_steps",
    "phases.*.until_step": "runs are made longer or shorter",
    "clip_norm": "touches one step at a time",
    "ema": "as clip_norm",
    "data": "a path; the photos behind it should be the same",
    "stream": "the same photos in the same order, read later",
    "cache_dir": "a path",
    "clip": "a path",
    "device": "the same numbers elsewhere, but for rounding",
    "precision": "as device",
    "gradient_checkpointing": "memory against time, the same numbers",
    "sharding": "as gradient_checkpointing",
    "loader_workers": "samples do not depend on who makes them",
    "save_every": "no influence on the numbers",
    "curves": "as save_every",
    "pictures_every": "as save_every",
    "init": "was used at the first step only",
    "init_prefixes": "as init",
    "tie_positions": "as init",
}
"""Field of `TrainConfig` that a resumed run may change, and why. `*` stands for a number."""

FIXED = ("model", "decoder_depth", "freeze", "lora_rank", "affinity", "text_width")
"""Fields that decide which parameters there are: `--accept-changes` does not help."""


def stored_form(config: TrainConfig, num_processes: int) -> dict[str, Any]:
    """The configuration as plain data for a checkpoint, with the number of processes."""
    return {**asdict(config), "num_processes": num_processes}


def check_unchanged(stored: Mapping[str, Any], config: TrainConfig, num_processes: int, accept: bool) -> None:
    """OptionError that lists every difference that a resumed run may not have.

    photos, accumulate and the number of processes may change together as long as a step sees as many photos.
    accept: allow all differences but those of FIXED.
    """
    before, now = _flat(stored), _flat(stored_form(config, num_processes))
    before, now = ({key: v for key, v in flat.items() if not _is_free(key)} for flat in (before, now))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    fixed = [key for key in changed if key.split(".")[0] in FIXED]
    if not changed or (accept and not fixed):
        return
    lines = [f"  {key}: {before.get(key, 'absent')} in the run, {now.get(key, 'absent')} now" for key in changed]
    way_out = "start a new run in another folder (--set init=… begins with weights of this one)"
    if not fixed:
        way_out = f"add --accept-changes if the change is meant, or {way_out}"
    raise OptionError(
        "the configuration is not the one this run was started with:\n" + "\n".join(lines)
        + f"\nSet these back, {way_out}. Free to change: {', '.join(FREE)}."
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested fields by dotted name, those that the run is older than at their default; photos of a step."""
    config = {**asdict(TrainConfig()), **config}
    flat: dict[str, Any] = {}
    factor = config.get("accumulate", 1) * config.get("num_processes", 1)
    for key, value in config.items():
        if key == "phases":
            for i, phase in enumerate(value):
                whole = {**asdict(Phase()), **phase}
                flat.update({f"phases.{i}.{k}": v for k, v in whole.items() if k != "photos"})
                flat[f"phases.{i}.photos of a step"] = phase["photos"] * factor
        elif isinstance(value, Mapping):
            flat.update({f"{key}.{k}": v for k, v in value.items()})
        elif key not in ("accumulate", "num_processes"):
            flat[key] = value
    return flat


def _is_free(key: str) -> bool:
    return ".".join("*" if part.isdigit() else part for part in key.split(".")) in FREE
