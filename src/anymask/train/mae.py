"""Weights of a masked autoencoder (He et al. 2021) as the start of a SAM image encoder (PAPER §2.2, §3.3).

MAE was trained on 224 px: 14×14 cells and a class token. The token is dropped, the position table is interpolated to
the encoder's own (bicubic, as ViTDet does; the paper does not say). Relative positions and the neck, which MAE has not,
keep their start: zero, and random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from anymask.core.errors import CheckpointError

NAMES = {"mlp.fc1": "mlp.lin1", "mlp.fc2": "mlp.lin2"}  # theirs, ours


def is_mae(state: Mapping[str, Tensor]) -> bool:
    """Are these weights of a plain ViT with a class token, as MAE's files hold?"""
    return "cls_token" in state and "blocks.0.attn.qkv.weight" in state


def from_mae(state: Mapping[str, Tensor], cells: int) -> dict[str, Tensor]:
    """MAE's encoder under our names, its table (1, 1 + n·n, C) as (1, cells, cells, C); its decoder is left out."""
    table = state["pos_embed"][:, 1:]  # without the class token
    old = round(table.shape[1] ** 0.5)
    if old * old != table.shape[1]:
        raise CheckpointError(f"the position table of these MAE weights has {table.shape[1]} cells: no square.")
    grid = table.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(cells, cells), mode="bicubic", align_corners=False)
    ours = {"image_encoder.pos_embed": grid.permute(0, 2, 3, 1).contiguous()}
    for key, value in state.items():
        if re.match(r"(blocks|patch_embed)\.", key):
            for theirs, name in NAMES.items():
                key = key.replace(theirs, name)
            ours[f"image_encoder.{key}"] = value.float()
    return ours
