"""Embeddings of a frozen encoder, computed once for each photo and kept on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anymask.core.errors import CheckpointError
from anymask.core.geometry import Frame
from anymask.core.types import Embedding
from anymask.data.augment import Augmentation, draw_view, image_in_view
from anymask.data.loader import decode_rgb
from anymask.data.readers import Photo
from anymask.model.sam import Sam
from anymask.predict.embeddings import load_embedding, save_embedding
from anymask.train.config import TrainConfig
from anymask.train.photo_rounds import autocast


class EmbeddingCache:
    """Safetensors files, named by their content: the photo's bytes, the encoder's weights, and the side in pixels.

    Another encoder or a changed photo is another name, so nothing stale is ever read. The files are those of
    `predict.embeddings`, in float16.
    """

    def __init__(self, folder: Path, encoder_key: str) -> None:
        self.folder, self.encoder_key = folder, encoder_key

    def path(self, photo: Photo, side: int) -> Path:
        """Where the embedding of a photo lies."""
        digest = hashlib.sha256(photo.encoded)
        digest.update(f"{self.encoder_key} {side} {photo.hw}".encode())
        return self.folder / f"{digest.hexdigest()[:24]}.safetensors"

    def __call__(self, photo: Photo, side: int) -> Tensor:
        """The stored embedding (C, h, w), float32."""
        features: Tensor = load_embedding(self.path(photo, side), side).features
        return features[0].float()

    @torch.no_grad()
    def fill(
        self, sam: Sam, photos: Sequence[Photo], side: int, config: TrainConfig, say: Callable[[str], None]
    ) -> None:
        """Compute and store what is missing; photos of which no file can be read. Says how far it is now and then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [photo for photo in photos if not self._is_whole(self.path(photo, side), side)]
        told = time.monotonic()
        was_training = sam.image_encoder.training
        sam.image_encoder.eval()
        for done, photo in enumerate(missing, 1):
            view = draw_view(photo.hw, side, Augmentation(), np.random.default_rng(0))
            pixels = image_in_view(decode_rgb(photo), photo.hw, view, Augmentation(), np.random.default_rng(0))
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(sam.pixel_mean.device)
            image = torch.nan_to_num((image - sam.pixel_mean) / sam.pixel_std)
            with autocast(config, image):
                features = sam.image_encoder(image.contiguous(memory_format=torch.channels_last))
            embedding = Embedding(features.to(torch.float16), Frame.of(photo.hw, side), self.encoder_key)
            save_embedding(embedding, self.path(photo, side))
            if done == len(missing) or time.monotonic() - told > 30:
                told = time.monotonic()
                say(f"embeddings: {done} of {len(missing)} in {self.folder}")
        sam.image_encoder.train(was_training)

    @staticmethod
    def _is_whole(path: Path, side: int) -> bool:
        from safetensors import SafetensorError

        try:
            load_embedding(path, side)
        except (CheckpointError, SafetensorError):
            return False
        return True


def encoder_key(sam: Sam) -> str:
    """Sixteen hex digits of the image encoder's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sam.image_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
