"""Small shards for tests of training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from anymask.core.rle import encode_one
from anymask.data.readers import Photo
from anymask.data.shards import write_shard


def write_discs(folder: Path, num_photos: int = 6) -> Path:
    """A shard of noisy 64×96 pictures with three bright discs each; returns the folder."""
    rng = np.random.default_rng(0)
    photos = []
    for i in range(num_photos):
        image = rng.integers(0, 90, (64, 96, 3), dtype=np.uint8)
        rles = []
        for _ in range(3):
            y, x, r = rng.integers(15, 50), rng.integers(15, 80), rng.integers(6, 14)
            ys, xs = np.mgrid[:64, :96]
            disc = (ys - y) ** 2 + (xs - x) ** 2 < r * r
            image[disc] = rng.integers(120, 255, 3)
            rles.append(encode_one(disc))
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG")
        photos.append(Photo(f"d{i}", "discs", encoded.getvalue(), (64, 96), rles))
    write_shard(photos, folder / "discs-000.tar")
    return folder
