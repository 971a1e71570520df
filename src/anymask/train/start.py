"""Where a run starts: pretrained parts, and a decoder whose tokens find their place from the first step."""

from __future__ import annotations

from pathlib import Path

import torch

from anymask.core.errors import CheckpointError
from anymask.model.sam import Sam
from anymask.model.transformer import Attention
from anymask.train.mae import from_mae, is_mae


@torch.no_grad()
def tie_positions(sam: Sam, gain: float = 2.2) -> None:
    """Start every cross-attention with equal query and key projections.

    A click and the cell under it carry the same Fourier code. With independent random projections that says nothing
    at first, and a small run spends its first thousand steps finding out (docs/log.md). With equal ones the product
    of query and key is the similarity of the two codes, a bump about 8 % of the side wide around the click; `gain`
    makes it stand out. Training is free to leave this start.
    """
    for module in sam.mask_decoder.transformer.modules():
        if isinstance(module, Attention) and module.internal_dim < module.embedding_dim:
            module.q_proj.weight.mul_(gain)
            module.k_proj.weight.copy_(module.q_proj.weight)
            module.q_proj.bias.zero_()
            module.k_proj.bias.zero_()


def start_from(sam: Sam, path: Path, prefixes: list[str]) -> None:
    """Copy the parameters whose names start with one of `prefixes` from a weights file; also one of MAE."""
    from anymask.weights.read import read_state_dict

    state = read_state_dict(path)
    if is_mae(state):
        state = from_mae(state, sam.image_encoder.pos_embed.shape[1])
    state = {k: v.float() for k, v in state.items() if k.startswith(tuple(prefixes))}
    if not state:
        raise CheckpointError(f"{path} holds no parameter that starts with {', '.join(prefixes)}.")
    own = sam.state_dict()
    odd = [k for k, v in state.items() if k not in own or own[k].shape != v.shape]
    if odd:
        shown = ", ".join(f"{k} {tuple(state[k].shape)}" for k in odd[:5])
        raise CheckpointError(
            f"{path} is of another model: {len(odd)} of its {len(state)} parameters are not in this one or of another "
            f"shape ({shown}{' …' if len(odd) > 5 else ''}). Set model to the one it was made for."
        )
    sam.load_state_dict(state, strict=False)
