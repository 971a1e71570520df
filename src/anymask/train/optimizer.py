"""Parameter groups and the learning-rate schedule (PAPER §3.3)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from anymask.train.config import TrainConfig


def parameter_groups(modules: list[nn.Module], config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of equal learning rate and weight decay over the parameters that are trained.

    Norms, biases and single vectors go without weight decay (the paper is silent). The schedule scales `peak_lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in modules:
        depth = len(getattr(getattr(module, "image_encoder", None), "blocks", []))
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            lr = peak_lr(name, depth, config)
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()
    ]


def peak_lr(name: str, depth: int, config: TrainConfig) -> float:
    """Peak learning rate of one parameter.

    depth: number of transformer blocks of the image encoder, 0 where it has none. Block i of a ViT gets
    encoder_lr · layer_decay^(depth - i), its patch embedding and position table layer_decay^(depth + 1), as in BEiT and
    ViTDet; the neck and everything outside the encoder get factor 1.
    """
    if not name.startswith("image_encoder."):
        return config.lr
    if name.startswith("image_encoder.backbone."):
        return config.backbone_lr
    block = re.match(r"image_encoder\.blocks\.(\d+)\.", name)
    if block:
        return config.encoder_lr * config.layer_decay ** (depth - int(block[1]))
    if depth and name.startswith(("image_encoder.patch_embed.", "image_encoder.pos_embed")):
        return config.encoder_lr * config.layer_decay ** (depth + 1)
    return config.encoder_lr


def lr_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at `step`: linear warm-up from 0, ×0.1 at each milestone, linear end."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    end = min(1.0, (config.total_steps - step) / config.decay_steps) if config.decay_steps else 1.0
    return warm * end * 0.1 ** sum(step >= milestone for milestone in config.lr_milestones)
