"""Every random draw of a run follows from the run's seed and its own place, never from what was drawn before."""

from __future__ import annotations

import numpy as np
import torch

STEP, SAMPLE, ENCODER, AFFINITY = range(4)  # what a draw belongs to


def seed_torch(seed: int, kind: int, *place: int) -> None:
    """Seed torch for the draws of one step, one sample, or one encoder pass."""
    torch.manual_seed(int(np.random.SeedSequence((seed, kind, *place)).generate_state(1, np.uint64)[0]))
