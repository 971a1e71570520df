"""A generator without a model that finds bright regions; for the tests of tiles."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from anymask.core.rle import encode_one
from anymask.predict.options import AutomaticOptions


class Discs:
    """Every connected bright region of a picture is one mask, as far as the picture shows it."""

    options = AutomaticOptions()

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def generate(self, image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
        self.shapes.append((image.shape[0], image.shape[1]))
        num, labels, stats, centres = cv2.connectedComponentsWithStats((image[..., 1] > 128).astype(np.uint8))
        records = []
        for i in range(1, num):
            x, y, w, h, area = (int(v) for v in stats[i])
            records.append(
                {
                    "segmentation": encode_one(labels == i),
                    "area": area,
                    "bbox": [x, y, w - 1, h - 1],
                    "predicted_iou": 0.9,
                    "point_coords": [[float(c) for c in centres[i]]],
                    "stability_score": 0.95,
                    "crop_box": [0, 0, image.shape[1], image.shape[0]],
                }
            )
        return records
