"""A batch through the encoder and all interactive rounds, as one module.

DDP and FSDP2 attach themselves to one forward call and one last backward call. The rounds want more: a backward pass
after each, which frees its graph before the next is built. So the rounds run backward inside `forward`, down to the
embedding, and leave what remains, the encoder, for the caller's single `backward`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core.errors import AnymaskError, OptionError
from anymask.data.loader import Batch
from anymask.model.sam import Sam
from anymask.model.threads import in_threads
from anymask.text.clip import ClipEmbedder
from anymask.train.affinity import AffinityHead
from anymask.train.clicks import Draws, round_plan
from anymask.train.config import Phase, TrainConfig
from anymask.train.losses import LossWeights
from anymask.train.parts import Replicas, can_be_dealt, dealt
from anymask.train.rounds import RoundsResult, Shown, merged, run_rounds
from anymask.train.seeds import AFFINITY, ENCODER, SAMPLE, STEP, seed_torch


class TrainingError(AnymaskError, RuntimeError):
    """The run cannot go on; the last checkpoint is intact."""


@dataclass(frozen=True)
class _Photo:
    """masks: (P, S, S). pooled: its embedding (1, C, h, w). text: (P, D), or None."""

    name: str
    masks: Tensor
    draws: Draws
    pooled: Tensor
    text: Tensor | None


class PhotoRounds(nn.Module):
    """Sam, the auxiliary head, and the rounds of one batch."""

    def __init__(self, config: TrainConfig, sam: Sam, affinity: AffinityHead | None, touch: bool = False) -> None:
        """touch: end with a zero that depends on every parameter, which is how DDP learns that all of them are done."""
        super().__init__()
        self.config, self.sam, self.affinity, self.touch = config, sam, affinity, touch
        self.encoder_trains = any(p.requires_grad for p in sam.image_encoder.parameters())
        self.weights = LossWeights(**asdict(config.losses))
        self._replicas: Replicas | None = None
        self.embedders = [text_embedder(config)] if config.text_width else []  # in a list: frozen, no part of the state

    def forward(
        self, batch: Batch, phase: Phase, plan: list[bool], seed: tuple[int, ...], share: float
    ) -> tuple[Tensor | None, list[list[dict[str, float | None]]], float | None, Shown]:
        """What is left to run backward from (None: nothing), the log of every photo, the auxiliary loss, a picture.

        plan: `clicks.round_plan`, the same for all photos of a step. seed: place of the encoder's draws.
        share: weight of this batch in its step. The decoder's gradients are complete when this returns.
        """
        config, b = self.config, len(batch.names)
        full = self._encode(batch, seed)  # (B, C, S/stride, S/stride)
        leaf = full.detach().float().requires_grad_(self.encoder_trains)  # the decoder's graphs are freed on the way
        cells = phase.cells or full.shape[-1]
        photos = []
        for i, name in enumerate(batch.names):
            seed_torch(config.seed, SAMPLE, batch.numbers[i])
            masks = batch.masks[i].to(leaf.device)
            draws = Draws.make(len(masks[: phase.masks]), len(plan) + 1, leaf.device)
            pooled = leaf[i : i + 1]
            if cells != full.shape[-1]:
                pooled = F.adaptive_avg_pool2d(pooled, cells)
            with autocast(config, leaf):
                text = self._text(batch.images[i], masks[: phase.masks])
            photos.append(_Photo(name, masks[: phase.masks], draws, pooled, text))
        results = self._all_rounds(photos, phase, plan, share / b)
        affinity = 0.0
        if self.affinity is not None:
            for i, photo in enumerate(photos):
                seed_torch(config.seed, AFFINITY, batch.numbers[i])
                with autocast(config, leaf):
                    loss = self.affinity(leaf[i : i + 1], batch.masks[i : i + 1].to(leaf.device))
                run_backward(config.affinity * loss, share / b, photo.name)
                affinity += loss.item() / b
        log, shown = [merged(parts) for parts in results], results[0][0].shown
        rest = sum_of_zeros(self) if self.touch else None
        if full.requires_grad:
            assert leaf.grad is not None
            encoder_share = (full * leaf.grad.to(full.dtype)).sum()  # its gradient is the embedding's
            rest = encoder_share if rest is None else encoder_share + rest
        return rest, log, affinity if self.affinity is not None else None, shown

    def _all_rounds(
        self, photos: list[_Photo], phase: Phase, plan: list[bool], share: float
    ) -> list[list[RoundsResult]]:
        """The rounds of all photos, forward and backward down to their pooled embeddings; results by photo.

        share: weight of a photo in its step.
        """
        sharded = self.touch and self.config.sharding == "fsdp"  # whose weights are whole in one place only
        num_threads = torch.get_num_threads() if can_be_dealt(self.sam) and not sharded else 1
        dealing = dealt([len(photo.masks) for photo in photos], num_threads)
        if len(dealing) > 1 and (self._replicas is None or not self._replicas.fit(len(dealing))):
            self._replicas = Replicas(self.sam, len(dealing))

        def work(thread: int) -> list[tuple[RoundsResult, Tensor | None]]:
            sam = self.sam if len(dealing) == 1 or self._replicas is None else self._replicas.copies[thread]
            return [self._rounds(sam, photos[part.photo], part.masks, phase, plan, share) for part in dealing[thread]]

        found = list(in_threads(work, range(len(dealing))))
        if len(dealing) > 1 and self._replicas is not None:
            self._replicas.add_gradients()
        results: list[list[RoundsResult]] = [[] for _ in photos]
        grads: list[Tensor | None] = [None for _ in photos]
        for parts, done in zip(dealing, found, strict=True):
            for part, (result, grad) in zip(parts, done, strict=True):
                results[part.photo].append(result)
                before = grads[part.photo]
                grads[part.photo] = grad if before is None or grad is None else before + grad
        for photo, grad in zip(photos, grads, strict=True):
            if grad is not None:
                torch.autograd.backward(photo.pooled, grad)
        return results

    def _rounds(
        self, sam: Sam, photo: _Photo, masks: slice, phase: Phase, plan: list[bool], share: float
    ) -> tuple[RoundsResult, Tensor | None]:
        """The rounds of some masks of a photo; the gradient of its pooled embedding, where the encoder trains."""
        config, mine = self.config, photo.masks[masks]
        share = share * len(mine) / len(photo.masks)
        embedding = photo.pooled.detach().requires_grad_(self.encoder_trains)

        def backward(loss: Tensor) -> None:
            run_backward(loss, share, photo.name)

        with autocast(config, embedding):
            result = run_rounds(
                sam,
                embedding,
                mine,
                phase.image_size or int(sam.image_encoder.img_size),
                plan,
                self.weights,
                photo.draws.of(masks),
                config.box_chance,
                config.through_time,
                None if config.through_time else backward,
                None if photo.text is None else photo.text[masks],
                config.distil,
            )
        if config.through_time:
            backward(result.loss)
        return result, embedding.grad

    def _text(self, image: Tensor, masks: Tensor) -> Tensor | None:
        """CLIP's vectors (P, D) of the masks of a view, or None."""
        for embedder in self.embedders:
            return embedder.to(masks.device).training_prompts(image, masks)
        return None

    def _encode(self, batch: Batch, seed: tuple[int, ...]) -> Tensor:
        sam = self.sam
        images = batch.images.to(sam.pixel_mean.device)
        if self.config.cache_embeddings:
            return images
        seed_torch(self.config.seed, ENCODER, *seed)
        images = torch.nan_to_num((images - sam.pixel_mean) / sam.pixel_std)
        with torch.set_grad_enabled(self.encoder_trains), autocast(self.config, images):
            return sam.image_encoder(images.contiguous(memory_format=torch.channels_last))


def text_embedder(config: TrainConfig) -> ClipEmbedder:
    """The frozen CLIP of a run. Raises OptionError where none is given or its vectors have another length."""
    if config.clip is None:
        raise OptionError("text prompts are learned from a CLIP: give its folder by --set clip=FOLDER.")
    embedder = ClipEmbedder(config.clip)
    if embedder.width != config.text_width:
        raise OptionError(f"{config.clip} makes vectors of {embedder.width} numbers; set text_width={embedder.width}.")
    return embedder


def step_plan(config: TrainConfig, phase: Phase, step: int) -> list[bool]:
    """The rounds of one step, the same for every photo and process."""
    seed_torch(config.seed, STEP, step)
    num_clicks = phase.num_clicks
    if phase.fewer_rounds:
        num_clicks = int(torch.randint(0, num_clicks + 1, ()))
    return round_plan(num_clicks, phase.num_empty)


def sum_of_zeros(module: nn.Module) -> Tensor:
    """Zero, as a function of every parameter that trains and is whole now; FSDP2 looks after its blocks."""
    whole = [p for p in module.parameters() if p.requires_grad and not hasattr(p, "device_mesh")]
    return torch.stack([p.sum() * 0 for p in whole]).sum()


def autocast(config: TrainConfig, like: Tensor) -> torch.autocast:
    """Mixed precision as the configuration asks for, on the device of `like`."""
    from anymask.model.precision import pick_dtype

    dtype = pick_dtype(config.precision, like.device)
    return torch.autocast(like.device.type, dtype, enabled=dtype != torch.float32)


def run_backward(loss: Tensor, share: float, name: str) -> None:
    """Backward from a photo's loss, of this weight in its step."""
    check_finite(loss, name)
    (loss * share).backward()  # type: ignore[no-untyped-call]


def check_finite(loss: Tensor, name: str) -> None:
    """TrainingError that names the photo whose loss is NaN or infinite."""
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss of photo {name!r} is {value}. Lower the learning rate or look at that photo "
            "(anymask data check); the last checkpoint is intact, the same command goes on from it."
        )


def mean_of_known(entries: list[dict[str, float | None]]) -> dict[str, float]:
    """Mean of each key over the entries that have a value for it."""
    known = {k: [v for e in entries if (v := e[k]) is not None] for k in entries[0]}
    return {k: sum(v) / len(v) for k, v in known.items() if v}


def summarise(log: dict[str, Any], photos: list[list[dict[str, float | None]]]) -> dict[str, Any]:
    """`log` with the mean over photos of every round."""
    return {**log, "rounds": [mean_of_known([photo[i] for photo in photos]) for i in range(len(photos[0]))]}
