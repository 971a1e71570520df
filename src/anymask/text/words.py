"""Words that labelled photos taught: a linear map from what the classifier sees of a mask to the space of phrases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anymask.core.errors import InputError

FEATURES = 2 * 1280  # of two crops
SHIPPED = Path(__file__).with_name("words.safetensors")


@dataclass(frozen=True)
class LearnedWords:
    """weight: (384, crops · 1280). bias: (384,). vocabulary: (N, 384), the phrases it learned, of length 1."""

    weight: np.ndarray
    bias: np.ndarray
    vocabulary: np.ndarray

    @classmethod
    def load(cls, file: Path) -> LearnedWords:
        """As `save` wrote it. Raises InputError for anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = {name: values.astype(np.float32) for name, values in load_file(file).items()}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file} cannot be read as learned words: {error}.") from error
        shapes = {name: values.shape for name, values in found.items()}
        width = shapes.get("vocabulary", (0, 0))[-1]
        if set(shapes) != {"weight", "bias", "vocabulary"} or shapes["weight"] != (*shapes["bias"], FEATURES) or (
            shapes["bias"] != (width,)
        ):
            raise InputError(
                f"{file} does not hold learned words: expected weight (384, {FEATURES}), bias (384,) and vocabulary "
                f"(N, 384), got {shapes}. `python -m anymask.text.learn` makes such files."
            )
        return cls(**found)

    def save(self, file: Path) -> None:
        """In half precision, 2 MB."""
        from safetensors.numpy import save_file

        save_file({name: values.astype(np.float16) for name, values in vars(self).items()}, file)

    def scores(self, vectors: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """(phrases, masks): how well masks, seen as (crops, M, 1280), fit phrases (P, 384) of length 1.

        A phrase counts by the square of its cosine with the nearest that was learned: with words that were held back
        this helped or did no harm on every set (docs/log.md).
        """
        near = (vectors @ self.vocabulary.T).max(axis=1).clip(0, 1)
        fits = vectors @ (arranged(seen) @ self.weight.T + self.bias).T
        return np.asarray(near[:, None] ** 2 * fits)


def arranged(seen: np.ndarray) -> np.ndarray:
    """(crops, M, 1280), 0 or more each, to (M, crops · 1280): roots, which tame the few large ones."""
    return np.asarray(np.sqrt(seen).transpose(1, 0, 2).reshape(seen.shape[1], -1))
