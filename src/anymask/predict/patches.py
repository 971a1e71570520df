"""Logits of one mask at the photo's size, only where they matter, and run lengths straight from there.

A mask is mostly nothing. Both bilinear steps (to the model's square, then to the photo) are separable
weighted means, so outside the cells that reach a level no pixel can exceed it. Small masks are computed in
their own rectangle, in plain numpy; OpenCV does whole pictures faster, and takes the large ones. Both are
single passes without BLAS, whose threads wait for each other on a busy machine (measured: 0.1 ms became 40
ms).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco

from anymask.core.geometry import Frame
from anymask.core.rle import RLE

_SMALL = 0.25  # share of the photo below which the rectangle is faster alone (measured)


@dataclass(frozen=True)
class Patch:
    """A rectangle (h, w) of values whose first pixel lies at (top, left) of the photo or crop."""

    values: np.ndarray
    top: int
    left: int


@dataclass(frozen=True)
class PackedMask:
    """A rectangle (h, w) of a mask, eight pixels to a byte, at (top, left) of the photo.

    Made in a tenth of the time of run lengths, which only masks that stay are worth.
    """

    bits: np.ndarray
    hw: tuple[int, int]
    top: int
    left: int

    @classmethod
    def of(cls, mask: np.ndarray, top: int, left: int) -> PackedMask:
        """From a mask (h, w) bool."""
        return cls(np.packbits(mask), (mask.shape[0], mask.shape[1]), top, left)

    def encode(self, image_hw: tuple[int, int]) -> RLE:
        """Run lengths in a photo (H, W)."""
        flat = np.unpackbits(self.bits, count=self.hw[0] * self.hw[1]).view(bool)
        return encode_patch(flat.reshape(self.hw), self.top, self.left, image_hw)


class _Axis:
    """The two steps along one axis: cells to the model's side, then to pixels."""

    def __init__(self, cells: int, side: int, scaled: int, pixels: int) -> None:
        self._steps = (_two_taps(side, cells), _two_taps(pixels, scaled))
        (low, high, _), (below, above, _) = self._steps
        self._first_cell, self._last_cell = low[below], high[above]  # that each pixel sees

    def reach(self, first_cell: int, last_cell: int) -> slice:
        """Pixels that see any of these cells."""
        start = int(np.searchsorted(self._last_cell, first_cell))
        return slice(start, max(start, int(np.searchsorted(self._first_cell, last_cell, side="right"))))

    def cells(self, pixels: slice) -> slice:
        """Cells that these pixels see."""
        return slice(int(self._first_cell[pixels.start]), int(self._last_cell[pixels.stop - 1]) + 1)

    def upscale(self, values: np.ndarray, pixels: slice) -> np.ndarray:
        """Rows of the cells that these pixels see (cells, n) to rows of the pixels (len, n)."""
        (low, high, part), (below, above, share) = self._steps
        start, first = self.cells(pixels).start, int(below[pixels.start])
        middle = slice(first, int(above[pixels.stop - 1]) + 1)
        values = _mean(values, low[middle] - start, high[middle] - start, part[middle])
        return _mean(values, below[pixels] - first, above[pixels] - first, share[pixels])


def _mean(values: np.ndarray, low: np.ndarray, high: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Weighted mean of two rows of `values` for each row of the result."""
    result = values.take(high, axis=0)
    lower = values.take(low, axis=0)
    result -= lower
    result *= part[:, None]
    result += lower
    return result


class PatchUpscaler:
    """Upscales low-resolution logits of one frame where they exceed a level.

    frame: geometry of the photo or crop. low_res_hw: size of the logits.
    """

    def __init__(self, frame: Frame, low_res_hw: tuple[int, int]) -> None:
        self._frame = frame
        (scaled_h, scaled_w), (height, width) = frame.input_hw, frame.original_hw
        self._rows = _Axis(low_res_hw[0], frame.side, scaled_h, height)
        self._columns = _Axis(low_res_hw[1], frame.side, scaled_w, width)

    def above(self, low_res: np.ndarray, level: float) -> Patch:
        """Logits (h, w) float32 in a rectangle outside of which none exceeds `level`.

        low_res: (4h, 4w) float32.
        """
        reaches = low_res > level
        rows, columns = np.flatnonzero(reaches.any(axis=1)), np.flatnonzero(reaches.any(axis=0))
        if not rows.size:
            return Patch(np.empty((0, 0), dtype=np.float32), 0, 0)
        y = self._rows.reach(int(rows[0]), int(rows[-1]))
        x = self._columns.reach(int(columns[0]), int(columns[-1]))
        height, width = y.stop - y.start, x.stop - x.start
        frame = self._frame
        if not height or not width:  # only cells in the padding
            values = np.empty((height, width), dtype=np.float32)
        elif height * width < _SMALL * frame.original_hw[0] * frame.original_hw[1]:
            seen = low_res[self._rows.cells(y), self._columns.cells(x)]
            by_row = cv2.transpose(self._rows.upscale(seen, y)).reshape(seen.shape[1], height)
            values = self._columns.upscale(by_row, x).T
        else:
            from anymask.model.upscale import upscale_one  # torch: a second that a run's first process saves

            values = upscale_one(low_res, frame.side, frame.input_hw, frame.original_hw)[y, x]
        return Patch(values, y.start, x.start)


def _two_taps(target: int, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `target` samples: the two `source` samples it lies between, and the weight of the
    second."""
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(position.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the first and last foreground pixels of a mask (h, w); zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def encode_patch(mask: np.ndarray, top: int, left: int, image_hw: tuple[int, int]) -> RLE:
    """Compressed RLE of a photo (H, W) that is empty but for `mask` (h, w) bool at (top, left).

    Costs time and memory for the patch, not for the photo.
    """
    (height, width), (rows, columns) = image_hw, mask.shape
    upright = np.zeros((columns, rows + 2), dtype=np.uint8)  # by column, with background above and below
    if mask.flags.f_contiguous:
        upright[:, 1:-1] = mask.T
    elif mask.size:
        upright[:, 1:-1] = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).reshape(columns, rows)
    flat = upright.reshape(-1)
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), rows + 2)
    changes = (column + left) * height + row + top  # begin, end, begin, end …
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2])  # full columns side by side are one run
    changes = np.delete(changes, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    runs = np.diff(changes, prepend=0, append=height * width)
    if runs.size > 1 and runs[-1] == 0:
        runs = runs[:-1]
    rle = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
