"""Automatic masks, only those that fit phrases best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anymask.core.images import read_image
from anymask.core.rle import decode_one
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.text.choice import TextChoice


class PhraseFilter:
    """A mask generator that keeps, of another one's masks, the `keep` best for each phrase, best first.

    Each record gets `label`, its phrase, and `similarity`. A mask is kept once, for the phrase that it fits best.
    """

    def __init__(
        self, generator: SamAutomaticMaskGenerator, text: TextChoice, phrases: Sequence[str], keep: int
    ) -> None:
        self.generator, self.text, self.phrases, self.keep = generator, text, list(phrases), keep
        self.segmenter, self.options = generator.segmenter, generator.options

    def generate(self, image: Any, **how: Any) -> list[dict[str, Any]]:
        """As `SamAutomaticMaskGenerator.generate`."""
        photo = read_image(image)
        records = self.generator.generate(photo, **how)
        if not records:
            return []
        masks = np.array([_pixels(record["segmentation"]) for record in records])
        similarity = self.text.embedder.similarities(photo, masks, self.phrases)
        best = similarity.argmax(axis=0)
        chosen = []
        for i, phrase in enumerate(self.phrases):
            own = [j for j in np.argsort(-similarity[i], kind="stable") if best[j] == i][: self.keep]
            chosen += [{**records[j], "label": phrase, "similarity": float(similarity[i, j])} for j in own]
        return chosen


def _pixels(segmentation: Any) -> np.ndarray:
    return segmentation if isinstance(segmentation, np.ndarray) else decode_one(segmentation)
