"""Generators without a model, for worker processes: one finds a square, the others die as told by the photo."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import CheckpointError


class Squares:
    """Finds one square; a photo whose first pixel is white kills the process while `marker` does not exist."""

    def __init__(self, marker: Path | None = None) -> None:
        self.marker = marker

    def generate(self, image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
        if image[0, 0, 0] == 255 and (self.marker is None or not self.marker.exists()):
            if self.marker is not None:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[2:5, 2:5] = True
        return [{"segmentation": mask, "predicted_iou": 0.9}]


def no_weights() -> Any:
    raise CheckpointError("there are no weights")
