"""Weights between two models: fine-tuned, it forgets less and keeps what it learned (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

from pathlib import Path

from anymask.core.errors import OptionError
from anymask.weights.load import load_model
from anymask.weights.read import read_state_dict
from anymask.weights.recognise import recognise
from anymask.weights.save import save_model


def blend(old: Path, new: Path, share: float, target: Path) -> Path:
    """Write old + share · (new − old), each weight by itself, unless `target` is there already; returns it.

    share: 0 … 1. Both files hold the same model; the blend is stored in float16, as a training stores its result.
    """
    if not 0 < share <= 1:
        raise OptionError(f"a blend takes a share above 0 and up to 1 of the trained weights, got {share}.")
    if target.is_file():
        return target
    before = read_state_dict(old)
    sam = load_model(new)
    state = sam.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value.lerp_(before[name].to(value.dtype), 1 - share)
    save_model(sam, target, recognise(state)[0], half=True)
    return target
