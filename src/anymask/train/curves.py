"""TensorBoard files of a run: loss, IoU and clicks of every round, learning rate, and the masks as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from anymask.data.loader import Batch
from anymask.model.prompt_encoder import BACKGROUND, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND
from anymask.train.rounds import Shown

COLORS = {FOREGROUND: (60, 220, 60), BACKGROUND: (230, 40, 40), BOX_TOP_LEFT: (250, 210, 30)}  # RGB
TRUTH, MASK = (250, 210, 30), (40, 110, 250)


class Curves:
    """Writes nothing where it is turned off or tensorboard is not installed."""

    def __init__(self, folder: Path, first_step: int, wanted: bool = True) -> None:
        self.writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("no curves: pip install 'anymask[train]' adds TensorBoard.", flush=True)
            return
        self.writer = SummaryWriter(folder, purge_step=first_step + 1)  # steps that are done again replace the old

    def write(self, step: int, log: dict[str, Any]) -> None:
        """One step's entry of `log.jsonl` as curves; keys of a round become `<key>/round 1` and so on."""
        if self.writer is None:
            return
        for key, value in log.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(f"step/{key}", value, step)
        for i, entry in enumerate(log["rounds"], 1):
            for key, value in entry.items():
                self.writer.add_scalar(f"{key}/round {i}", value, step)

    def picture(self, step: int, batch: Batch, shown: Shown) -> None:
        """The first mask of the step's first photo, one frame for each round."""
        if self.writer is not None:
            self.writer.add_image("masks", draw_rounds(photo_of(batch), shown), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()


def photo_of(batch: Batch) -> np.ndarray:
    """The first photo of a batch (S, S, 3) uint8; grey where only its embedding is known."""
    image = batch.images[0]
    if image.shape[0] != 3:
        return np.full((*batch.masks.shape[-2:], 3), 127, np.uint8)
    return np.asarray(torch.nan_to_num(image).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).cpu())


def draw_rounds(photo: np.ndarray, shown: Shown, side: int = 256) -> np.ndarray:
    """The truth's outline on the photo, then each round's mask in blue with the prompts of the last; frames in a row.

    photo: (S, S, 3) uint8. Returns (side, side·(rounds + 1), 3) uint8.
    """
    scale = side / photo.shape[0]
    photo = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    truth = _scaled(shown.truth, side)
    outlines = cv2.findContours(truth, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    frames = [photo.copy()]
    for mask in shown.masks:
        frame = photo.copy()
        inside = _scaled(mask, side).astype(bool)
        frame[inside] = frame[inside] // 2 + np.array(MASK, np.uint8) // 2
        frames.append(frame)
    points = [(round(x * scale), round(y * scale)) for x, y in shown.prompts.coords_xy[0].tolist()]
    labels = shown.prompts.labels[0].tolist()
    for frame in frames:
        cv2.drawContours(frame, outlines, -1, TRUTH, 1)
    for at, label in zip(points, labels):
        if label in COLORS and label != BOX_TOP_LEFT:
            cv2.circle(frames[-1], at, 3, COLORS[label], -1)
    if labels[:2] == [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]:
        cv2.rectangle(frames[-1], points[0], points[1], COLORS[BOX_TOP_LEFT], 1)
    return np.concatenate(frames, axis=1)


def _scaled(mask: Tensor, side: int) -> np.ndarray:
    small = np.asarray(mask.cpu()).astype(np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)
