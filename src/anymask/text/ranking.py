"""Masks of a photo ranked by a phrase."""

from __future__ import annotations

import numpy as np

from anymask.text.embedders import TextEmbedder


def rank(embedder: TextEmbedder, image: np.ndarray, masks: np.ndarray, phrase: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the masks (M, H, W), best first, and their similarities in that order."""
    similarity = embedder.similarities(image, masks, [phrase])[0]
    order = np.argsort(-similarity, kind="stable")
    return order, similarity[order]
