"""Photos to training batches: seeded by position, so that any step can be made again after a restart."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anymask.core.errors import ImageError, InputError
from anymask.core.masks import mask_boxes
from anymask.core.rle import area, decode
from anymask.data.augment import Augmentation, draw_view, image_in_view, masks_in_view, zoomed_view
from anymask.data.readers import DataError, IndexedPhotos, Photo, set_sizes


class Sample(NamedTuple):
    """One photo in one view.

    image: (3, S, S) float32, 0..255, NaN outside the photo; or what `embed` gave, (C, h, w).
    masks: (M, S, S) uint8. name: of the photo. number: of the sample.
    """

    image: Tensor
    masks: Tensor
    name: str
    number: int


@dataclass(frozen=True)
class Batch:
    """B photos and M masks of each.

    images: (B, 3, S, S) float32, 0..255, NaN outside the photo, or embeddings (B, C, h, w) where the data set gives
    those. masks: (B, M, S, S) uint8; a photo with fewer masks repeats them. names, numbers: (B).
    """

    images: Tensor
    masks: Tensor
    names: list[str]
    numbers: list[int]


class PromptDataset(Dataset[Sample]):
    """Sample i is a function of (seed, i) alone: which photo, which masks, which view."""

    def __init__(
        self,
        photos: Sequence[Photo],
        *,
        side: int,
        masks_per_photo: int,
        length: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        balance: float = 0.5,
        max_area: float = 0.9,
        min_area_px: int = 24,
        embed: Callable[[Photo], Tensor] | None = None,
    ) -> None:
        """photos: a list, or `IndexedPhotos`, of which a broken one is named and another taken.

        length: number of samples. balance: 0 draws photos evenly, 1 draws sets evenly.

        max_area: masks that cover more of the photo are dropped (PAPER §3.3). min_area_px: in the S×S view.
        embed: gives the stored embedding (C, h, w) of a photo instead of its pixels; for views without augmentation.
        """
        if not photos:
            raise InputError("the training set is empty: no photo was read. Check --data.")
        self.photos = photos
        self.side = side
        self.masks_per_photo = masks_per_photo
        self.length = length
        self.augmentation = augmentation or Augmentation()
        assert embed is None or self.augmentation.is_identity, "stored embeddings are of photos as they are"
        self.embed = embed
        self.seed = seed
        self.max_area = max_area
        self.min_area_px = min_area_px
        weight = _weights(photos, balance)
        self._cumulative = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        for _ in range(50):  # a view may have lost all its masks: take another
            at = int(np.searchsorted(self._cumulative, rng.random()))
            try:
                photo = self.photos[min(at, len(self.photos) - 1)]
                sample = self._view(photo, rng)
            except (DataError, ImageError) as error:
                if not isinstance(self.photos, IndexedPhotos):
                    raise
                print(f"left out: {error}", file=sys.stderr, flush=True)  # it was not looked at before the run
                continue
            if sample is not None:
                return Sample(*sample, photo.name, index)
        raise InputError(
            "50 views in a row had no usable mask; are the masks empty, the photos broken (anymask data check), or is "
            "min_area_px too large?"
        )

    def _view(self, photo: Photo, rng: np.random.Generator) -> tuple[Tensor, Tensor] | None:
        """Pixels or embedding, and masks, of a random view; None where no usable mask is left."""
        areas = [area(rle) / (photo.hw[0] * photo.hw[1]) for rle in photo.rles]
        usable = [i for i, a in enumerate(areas) if 0 < a <= self.max_area]
        if not usable:
            return None
        zoom = rng.random() < self.augmentation.zoom if self.augmentation.zoom else False
        take = rng.permutation(usable)[: (4 if zoom else 2) * self.masks_per_photo]  # a view may lose many
        masks = decode([photo.rles[i] for i in take]).astype(np.uint8)
        if zoom:
            box = mask_boxes(masks[:1] > 0)[0]
            view = zoomed_view(photo.hw, box, self.side, self.augmentation, rng)
        else:
            view = draw_view(photo.hw, self.side, self.augmentation, rng)
        if self.embed:
            image = self.embed(photo)
        else:
            pixels = image_in_view(decode_rgb(photo), photo.hw, view, self.augmentation, rng)
            image = torch.from_numpy(pixels).permute(2, 0, 1)
        masks = masks_in_view(masks, view)
        sizes = masks.reshape(len(masks), -1).sum(axis=1, dtype=np.int64)
        masks = masks[sizes >= self.min_area_px][: self.masks_per_photo]
        if not len(masks):
            return None
        masks = masks[np.arange(self.masks_per_photo) % len(masks)]
        return image, torch.from_numpy(masks)


def _weights(photos: Sequence[Photo], balance: float) -> np.ndarray:
    """How often each photo is drawn, (N): n^-balance for one of a set of n."""
    sizes = set_sizes(photos)
    if isinstance(photos, IndexedPhotos):
        return np.concatenate([np.full(len(s.names), sizes[s.source] ** -balance) for s in photos.shards])
    return np.array([sizes[photo.source] ** -balance for photo in photos])


def decode_rgb(photo: Photo) -> np.ndarray:
    """The photo as (H, W, 3) uint8 RGB."""
    image = cv2.imdecode(np.frombuffer(photo.encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{photo.source}/{photo.name}: the photo cannot be decoded; it is broken.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def collate(samples: list[Sample]) -> Batch:
    """Samples to one batch."""
    images, masks, names, numbers = zip(*samples)
    return Batch(torch.stack(images), torch.stack(masks), list(names), list(numbers))


def set_up_worker(_: Any) -> None:
    """Loaders must not take the trainer's cores, and leave stopping to it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)  # 1 would wait for the pool's threads, which a fork does not copy
    torch.set_num_threads(1)
