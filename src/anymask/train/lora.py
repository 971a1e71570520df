"""Low-rank updates of q and v in a ViT's attention (Hu et al. 2021), merged into plain weights on saving."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core.errors import OptionError

UPDATE_NAMES = ("q_down", "q_up", "v_down", "v_up")


class LoraQKV(nn.Linear):
    """A fused qkv projection (C to 3C) with updates x·downᵀ·upᵀ·scale of its q and v; `up` starts at zero.

    weight and bias keep their names, so a plain state dict still loads.
    """

    q_down: Tensor
    q_up: Tensor
    v_down: Tensor
    v_up: Tensor

    def __init__(self, plain: nn.Linear, rank: int, scale: float) -> None:
        super().__init__(1, 1, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.scale = scale
        width = plain.in_features
        for part in ("q", "v"):
            down = torch.randn(rank, width) * width**-0.5
            setattr(self, f"{part}_down", nn.Parameter(down.to(plain.weight)))
            setattr(self, f"{part}_up", nn.Parameter(torch.zeros(width, rank).to(plain.weight)))

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, 3C)."""
        q = F.linear(F.linear(x, self.q_down), self.q_up) * self.scale
        v = F.linear(F.linear(x, self.v_down), self.v_up) * self.scale
        return super().forward(x) + torch.cat([q, torch.zeros_like(q), v], dim=-1)


def add_lora(encoder: nn.Module, rank: int, alpha: float) -> None:
    """Replace the qkv projection of every block of a ViT; OptionError for an encoder without such blocks.

    The blocks and everything before them (not the neck) stop training, the updates train.
    """
    blocks = getattr(encoder, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not all(hasattr(b, "attn") for b in blocks):
        raise OptionError("LoRA is for ViT encoders (vit_b, vit_l, vit_h); train lite with the recipe finetune.")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name.startswith("neck."))
    for block in blocks:
        plain = block.get_submodule("attn.qkv")
        assert isinstance(plain, nn.Linear)
        block.set_submodule("attn.qkv", LoraQKV(plain, rank, alpha / rank))


def merge_lora(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state dict with updates as the plain state dict of the same function."""
    plain = {k: v for k, v in state.items() if k.rpartition(".")[2] not in UPDATE_NAMES}
    for key in state:
        base, _, name = key.rpartition(".")
        if name not in ("q_up", "v_up"):
            continue
        update = state[key] @ state[f"{base}.{name[0]}_down"] * scale  # (C, C)
        width = len(update)
        first = 0 if name == "q_up" else 2 * width
        weight = plain[f"{base}.weight"].clone()
        weight[first : first + width] += update.to(weight)
        plain[f"{base}.weight"] = weight
    return plain
