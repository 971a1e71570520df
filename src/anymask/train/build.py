"""From a configuration to the model as it is trained: pretrained parts, frozen parts, low-rank updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from anymask.model.lite_encoder import imagenet_backbone_weights
from anymask.model.presets import MODEL_NAMES, build_sam
from anymask.model.sam import Sam
from anymask.train.config import TrainConfig
from anymask.train.lora import add_lora, merge_lora
from anymask.train.start import start_from, tie_positions


def build_trainable(config: TrainConfig) -> Sam:
    """The model of a run before its first step, in training mode, on the CPU."""
    sam = build_sam(
        config.model,
        decoder_depth=config.decoder_depth,
        dropout=config.dropout,
        drop_path_rate=config.drop_path,
    ).train()
    if config.text_width:
        sam.prompt_encoder.add_text(config.text_width)
    sam.image_encoder.gradient_checkpointing = config.gradient_checkpointing
    if config.model == "lite":
        if not (config.init and "" in config.init_prefixes):  # else every weight is replaced below
            sam.image_encoder.backbone.load_state_dict(imagenet_backbone_weights())
        sam.image_encoder.to(memory_format=torch.channels_last)
    if config.tie_positions:
        tie_positions(sam)
    if config.init:
        start_from(sam, init_file(config.init), config.init_prefixes)
    if config.lora_rank:
        add_lora(sam.image_encoder, config.lora_rank, config.lora_alpha)
    for name, parameter in sam.named_parameters():
        if name.startswith(tuple(config.freeze)):
            parameter.requires_grad_(False)
    return sam


def init_file(init: str) -> Path:
    """The weights file that `init` names: a path, or a model whose published weights are on this machine."""
    if init in (*MODEL_NAMES, "default"):
        from anymask.weights.catalog import require_local

        return require_local(init)
    return Path(init)


def plain_model(config: TrainConfig, state: Mapping[str, Tensor]) -> Sam:
    """The model of a run's state dict without anything that belongs to training, in evaluation mode."""
    sam = build_sam(config.model, decoder_depth=config.decoder_depth)
    if config.text_width:
        sam.prompt_encoder.add_text(config.text_width)
    if config.lora_rank:
        state = merge_lora(state, config.lora_alpha / config.lora_rank)
    sam.load_state_dict(dict(state))
    return sam.eval()
