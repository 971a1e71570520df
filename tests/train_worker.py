"""One process of a training run, for tests: a recipe, shards, a folder, the last step, and overrides.

A ViT shrinks to two narrow blocks here, so that tests of ViT training take seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anymask.data.readers import read_shards
from anymask.model import presets
from anymask.train.config import load_config
from anymask.train.loop import Trainer

TINY_VIT = presets.ViTSize(32, 2, 2, (1,))


def train(recipe: Path, data: Path, out: Path, stop_at: int, overrides: list[str]) -> Trainer:
    """Run to `stop_at`."""
    trainer = Trainer(load_config(recipe, overrides), read_shards([data]), out)
    trainer.run(stop_at=stop_at)
    return trainer


if __name__ == "__main__":
    presets.VIT_SIZES["vit_b"] = TINY_VIT
    train(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
