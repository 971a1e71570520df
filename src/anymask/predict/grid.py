"""Where to click: regular grids of points on the unit square (PAPER §4.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anymask.core.errors import OptionError


def build_point_grid(points_per_side: int) -> np.ndarray:
    """Cell centres of an n×n grid, (n², 2) xy in 0 … 1, row by row.

    >>> build_point_grid(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    if points_per_side < 1:
        raise OptionError(f"a grid needs at least 1 point per side, got {points_per_side}.")
    offset = 1 / (2 * points_per_side)
    one_side = np.linspace(offset, 1 - offset, points_per_side)
    x, y = np.meshgrid(one_side, one_side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def build_layer_grids(points_per_side: int, num_layers: int, downscale: int) -> list[np.ndarray]:
    """One grid for the photo and one for the crops of each layer, `downscale` times coarser from layer to
    layer.

    Raises OptionError where a layer would be left without a point.
    """
    sides = [int(points_per_side / downscale**layer) for layer in range(num_layers + 1)]
    if min(sides) < 1:
        raise OptionError(
            f"{points_per_side} points per side, {downscale} times fewer in each of {num_layers} layers, leaves "
            "no point. Take fewer layers, a smaller downscale factor, or more points."
        )
    return [build_point_grid(side) for side in sides]


def check_point_grids(grids: Sequence[np.ndarray], num_layers: int) -> list[np.ndarray]:
    """Grids of one's own: one (N, 2) array in 0 … 1 for the photo and for each crop layer."""
    checked = [np.asarray(grid, dtype=np.float64) for grid in grids]
    if len(checked) < num_layers + 1:
        raise OptionError(
            f"point_grids needs {num_layers + 1} grids (the photo and {num_layers} crop layers), got {len(checked)}."
        )
    for grid in checked:
        if grid.ndim != 2 or grid.shape[1] != 2 or not ((grid >= 0) & (grid <= 1)).all():
            raise OptionError(f"a point grid must be (N, 2) xy in 0 … 1, got shape {grid.shape}.")
    return checked


def spread_order(num_points: int) -> np.ndarray:
    """An order that covers the whole grid early and evenly, for runs that may be cut short; always the
    same."""
    return np.random.default_rng(0).permutation(num_points)
