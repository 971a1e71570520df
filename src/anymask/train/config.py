"""Typed training configuration: dataclass defaults, a small YAML recipe, `--set` overrides (checked by omegaconf)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from anymask.core.errors import OptionError


@dataclass
class Phase:
    """A stretch of training at one size.

    until_step: first step that no longer belongs to it. image_size: side S of the training views in pixels.
    cells: side of the embedding that the decoder sees; the encoder's map is averaged down to it (0: as it is).
    photos: photos a step. masks: masks of each photo. num_clicks, num_empty: rounds after the first with and without
    a new click (8 and 2 in the paper). fewer_rounds: draw the number of clicks anew each step, 0 … num_clicks.
    min_area_px: smaller masks of a view are left out; coarse cells learn nothing from them.
    """

    until_step: int = 1000
    image_size: int = 512
    cells: int = 0
    photos: int = 4
    masks: int = 12
    num_clicks: int = 8
    num_empty: int = 2
    fewer_rounds: bool = False
    min_area_px: int = 24


@dataclass
class Losses:
    """Loss weights; the fields of `train.losses.LossWeights`."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    alpha: float | None = 0.25
    gamma: float = 2.0
    mean_share: float = 0.0
    label_all_ious: bool = True


@dataclass
class TrainConfig:
    """One training run.

    init: a weights file to start from; init_prefixes: only its parameters whose names start so.
    tie_positions: see `train.start.tie_positions`.
    lr, encoder_lr: peak learning rates of prompt encoder and decoder, and of the encoder (its pretrained part gets
    backbone_lr, blocks of a ViT are scaled by layer_decay). Schedule: linear warm-up, ×0.1 at each of lr_milestones,
    linear decay to zero over the last decay_steps (0: none).
    decoder_depth, dropout, drop_path: of the model while it trains. gradient_checkpointing: recompute the ViT's blocks
    in the backward pass. through_time: let gradients flow through fed-back logits (PAPER is silent; dearer).
    affinity: weight of the dense auxiliary loss on the embedding (`train.affinity`), 0 turns it off.
    freeze: parameters whose names start with one of these stay as they are.
    precision: of the arithmetic, see `model.precision`: "bf16" runs under autocast, weights and losses stay float32.
    ema: decay of the averaged weights that are evaluated and shipped. balance: see `data.loader.PromptDataset`.
    """

    model: str = "lite"
    init: str | None = None
    init_prefixes: list[str] = field(default_factory=lambda: [""])
    tie_positions: bool = False
    data: list[str] = field(default_factory=list)
    seed: int = 0
    lr: float = 5e-4
    encoder_lr: float = 5e-4
    backbone_lr: float = 1e-4
    freeze: list[str] = field(default_factory=list)
    weight_decay: float = 0.1
    warmup_steps: int = 250
    decay_steps: int = 0
    lr_milestones: list[int] = field(default_factory=list)
    layer_decay: float = 1.0
    clip_norm: float = 1.0
    ema: float = 0.998
    affinity: float = 0.0
    affinity_masks: int = 24
    dropout: float = 0.0
    drop_path: float = 0.0
    decoder_depth: int = 2
    gradient_checkpointing: bool = False
    through_time: bool = False
    box_chance: float = 0.5
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    flip: float = 0.0
    color: float = 0.0
    balance: float = 0.5
    device: str = "auto"
    precision: str = "auto"
    loader_workers: int = 1
    save_every: int = 100
    losses: Losses = field(default_factory=Losses)
    phases: list[Phase] = field(default_factory=lambda: [Phase()])

    @property
    def total_steps(self) -> int:
        """Where the last phase ends."""
        return self.phases[-1].until_step

    def phase_at(self, step: int) -> Phase:
        """The phase that `step` belongs to."""
        return next(p for p in self.phases if step < p.until_step)


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """A recipe file with `key=value` overrides; unknown keys and wrong types are refused by name."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        recipe = OmegaConf.load(path)
        merged = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), recipe, OmegaConf.from_dotlist(overrides or [])
        )
        return cast(TrainConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise OptionError(f"{path}: {error}") from error
