"""Typed training configuration: dataclass defaults, a small YAML recipe, `--set` overrides (checked by omegaconf)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from anymask.core.errors import OptionError


@dataclass
class Phase:
    """A stretch of training at one size.

    until_step: first step that no longer belongs to it. image_size: side S of the training views in pixels, 0 for the
    model's own. cells: side of the embedding that the decoder sees; the encoder's map is averaged down to it (0: as it
    is). photos: photos of one process at a time; a step sees photos × accumulate × processes of them. masks: masks of
    each photo. num_clicks, num_empty: rounds after the first with and without a new click (8 and 2 in the paper).
    fewer_rounds: draw the number of clicks anew each step, 0 … num_clicks. min_area_px: smaller masks of a view are
    left out; coarse cells learn nothing from them. scale: of this phase's views, instead of the run's.
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
    scale: list[float] | None = None


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

    init: a weights file, or a model's name, to start from; init_prefixes: only its parameters whose names start so.
    tie_positions: see `train.start.tie_positions`.
    lr, encoder_lr: peak learning rates of prompt encoder and decoder, and of the encoder (its pretrained part gets
    backbone_lr, blocks of a ViT are scaled by layer_decay). Schedule: linear warm-up, ×0.1 at each of lr_milestones,
    linear decay to zero over the last decay_steps (0: none).
    decoder_depth, dropout, drop_path: of the model while it trains. gradient_checkpointing: recompute the ViT's blocks
    in the backward pass. through_time: let gradients flow through fed-back logits (PAPER is silent; dearer).
    affinity: weight of the dense auxiliary loss on the embedding (`train.affinity`), 0 turns it off.
    distil: weight of the last round's mask as a target of the first prompt (`train.rounds`), 0 turns it off.
    freeze: parameters whose names start with one of these stay as they are.
    lora_rank: above 0, low-rank updates of q and v in every block of a ViT are trained instead of its blocks
    (`train.lora`), scaled by lora_alpha / lora_rank; they are merged into plain weights on saving.
    cache_embeddings: compute each photo's embedding once and keep it on disk (`train.cache`), in `cache_dir`, or in
    `embeddings/` of the run; for a frozen encoder and views without augmentation.
    accumulate: backward passes over so many batches before a step. sharding: of several processes, "ddp" or "fsdp".
    precision: of the arithmetic, see `model.precision`: "bf16" runs under autocast, weights and losses stay float32.
    stream: read photos of SA-1B tar shards when they are needed, not all before the first step (`IndexedPhotos`).
    zoom: chance of a view around one mask instead of a `scale` view, camera: of a view as another kind of camera would
    take it, dark, grey or negative (`data.augment`).
    share: uniform part of the photos that is trained on. repeats: how often each photo of a set is there, by the set's
    name, such as {manual: 10, automatic: 1}; sets that are not named are left out (`data.subset`).
    ema: decay of the averaged weights that are evaluated and shipped. balance: see `data.loader.PromptDataset`.
    text_width: above 0, text becomes a prompt: D of CLIP's vectors. clip: folder of that CLIP (`text.clip`); then every
    mask's first prompt is its CLIP vector instead of a point or a box (PAPER §7.6).
    curves: TensorBoard files in `curves/` of the run, where tensorboard is installed; a picture of the masks every
    pictures_every steps.
    """

    model: str = "lite"
    init: str | None = None
    init_prefixes: list[str] = field(default_factory=lambda: [""])
    tie_positions: bool = False
    data: list[str] = field(default_factory=list)
    stream: bool = False
    seed: int = 0
    lr: float = 5e-4
    encoder_lr: float = 5e-4
    backbone_lr: float = 1e-4
    freeze: list[str] = field(default_factory=list)
    lora_rank: int = 0
    lora_alpha: float = 8.0
    cache_embeddings: bool = False
    cache_dir: str | None = None
    accumulate: int = 1
    sharding: str = "ddp"
    weight_decay: float = 0.1
    warmup_steps: int = 250
    decay_steps: int = 0
    lr_milestones: list[int] = field(default_factory=list)
    layer_decay: float = 1.0
    clip_norm: float = 1.0
    ema: float = 0.998
    affinity: float = 0.0
    affinity_masks: int = 24
    distil: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    decoder_depth: int = 2
    gradient_checkpointing: bool = False
    through_time: bool = False
    box_chance: float = 0.5
    text_width: int = 0
    clip: str | None = None
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    flip: float = 0.0
    color: float = 0.0
    zoom: float = 0.0
    camera: float = 0.0
    balance: float = 0.5
    share: float = 1.0
    repeats: dict[str, int] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    loader_workers: int = 1
    save_every: int = 100
    curves: bool = True
    pictures_every: int = 100
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
    """A recipe file with `key=value` overrides; unknown keys and wrong types are refused by name.

    A key may point into a list (`phases.0.photos=2`), and may start with `train.`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where = str(path)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(path))
        for override in overrides or []:
            where = f"--set {override}"
            key, equals, text = override.removeprefix("train.").partition("=")
            if not equals:
                raise OptionError(f"{where}: expected key=value, such as lr=1e-4.")
            value = OmegaConf.from_dotlist([f"value={text}"])["value"]
            OmegaConf.update(merged, key.strip(), value, merge=True)
        config = cast(TrainConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise OptionError(f"{where}: {str(error).splitlines()[0]}{_nearest(error.key)}") from error
    except (IndexError, ValueError, TypeError) as error:
        raise error if isinstance(error, OptionError) else OptionError(f"{where}: {error}") from error
    check_config(config, where)
    return config


def check_config(config: TrainConfig, source: str) -> None:
    """Refuse values that cannot work together, before anything is loaded."""
    ends = [phase.until_step for phase in config.phases]
    scales = [config.scale, *(phase.scale for phase in config.phases if phase.scale is not None)]
    problems = [
        (not ends or ends != sorted(set(ends)) or ends[0] < 1, f"phases must end at rising steps, got {ends}"),
        (config.accumulate < 1, f"accumulate must be at least 1, got {config.accumulate}"),
        (config.save_every < 1 or config.pictures_every < 1, "save_every and pictures_every must be at least 1"),
        (config.sharding not in ("ddp", "fsdp"), f'sharding must be "ddp" or "fsdp", got {config.sharding!r}'),
        (any(len(s) != 2 for s in scales), f"scale is a range such as [0.5, 2.0], got {scales}"),
        (not 0 < config.share <= 1, f"share must be above 0 and at most 1, got {config.share:g}"),
        (any(n < 1 for n in config.repeats.values()), f"repeats must be 1 or more, got {config.repeats}"),
        (config.lora_rank < 0, f"lora_rank must be 0 (off) or more, got {config.lora_rank}"),
        (
            config.lora_rank > 0 and config.model == "lite",
            "lora_rank needs a ViT (vit_b, vit_l, vit_h); lite has no q and v in its blocks: use the recipe finetune",
        ),
        (config.text_width < 0, f"text_width must be 0 (off) or more, got {config.text_width}"),
        (config.clip is not None and not config.text_width, "clip needs text_width, the length of its vectors (768)"),
        (
            config.text_width > 0 and (config.cache_embeddings or config.through_time),
            "text_width goes without cache_embeddings and through_time",
        ),
        (any(p.photos < 1 or p.masks < 1 for p in config.phases), "photos and masks of a phase must be at least 1"),
    ]
    if config.cache_embeddings:
        frozen = any("image_encoder.".startswith(prefix) for prefix in config.freeze)
        moved = any(list(s) != [1.0, 1.0] for s in scales)
        moved = moved or any((config.flip, config.color, config.zoom, config.camera))
        problems += [
            (not frozen, "cache_embeddings needs a frozen encoder: add freeze: [image_encoder.]"),
            (bool(moved), "cache_embeddings needs photos as they are: scale [1, 1]; flip, color, zoom, camera 0"),
            (config.lora_rank > 0 or config.affinity > 0, "cache_embeddings goes without lora_rank and affinity"),
        ]
    for wrong, message in problems:
        if wrong:
            raise OptionError(f"{source}: {message}.")


def _nearest(key: Any) -> str:
    known = [f.name for kind in (TrainConfig, Phase, Losses) for f in fields(kind)]
    near = difflib.get_close_matches(str(key), known, n=1)
    return f" Did you mean {near[0]!r}?" if near and near[0] != key else ""
