"""Shared fixtures: small models with random but lively weights, and pictures made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anymask.model.presets import build_sam
from anymask.model.sam import Sam


def liven(module: torch.nn.Module, seed: int = 0) -> None:
    """Give zero-initialised tables random values, so that parity tests exercise them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.abs().sum():
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="session")
def lite_random() -> Sam:
    """A lite-shaped model with random weights."""
    torch.manual_seed(0)
    sam = build_sam("lite", image_size=256)
    liven(sam)
    return sam


@pytest.fixture
def photo() -> np.ndarray:
    """A (120, 160, 3) uint8 picture: a bright disc on a textured ground."""
    rng = np.random.default_rng(0)
    image = rng.integers(40, 80, (120, 160, 3), dtype=np.uint8)
    y, x = np.mgrid[:120, :160]
    image[(x - 90) ** 2 + (y - 60) ** 2 < 30**2] = (230, 180, 40)
    return image


@pytest.fixture(scope="session")
def browser_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model's copy for the browser is kept, for all servers that tests start."""
    return tmp_path_factory.mktemp("browser-home")
