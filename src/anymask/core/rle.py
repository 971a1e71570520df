"""Masks as COCO run lengths: small, JSON-able, and exact. pycocotools writes, measures and packs them.

A mask (H, W) is read column by column; the runs alternate background, foreground, background, … and the first
may be 0. "Compressed" packs them into a short text (`{"size": [H, W], "counts": "…"}`), "uncompressed" is the
list (`{"size": [H, W], "counts": [3, 2, …]}`). Every function here takes both.

What comes from outside is checked first, and read here: pycocotools 2.0.11 reads runs that do not fill the
mask as memory that was never written, and its `decode` relies on something numpy 2 has announced to remove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import InputError
from anymask.core.geometry import MAX_PIXELS

RLE = dict[str, Any]
MAX_RUN_PIXELS = 2**32 - 1  # of masks that are measured or repacked but never decoded: COCO's runs are 32 bits


def encode(masks: np.ndarray) -> list[RLE]:
    """Masks (N, H, W) bool or 0/1 to compressed RLE with `counts` as str, ready for JSON."""
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise InputError(f"expected masks (N, H, W), got shape {masks.shape}. For one mask call encode_one.")
    return [encode_one(mask) for mask in masks]


def encode_one(mask: np.ndarray) -> RLE:
    """One mask (H, W) bool or 0/1 to compressed RLE with `counts` as str, ready for JSON."""
    rle = coco.encode(cv2.transpose(_binary(mask)).T)  # column-major, as pycocotools wants it
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rles: Sequence[Mapping[str, Any]], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RLE of masks of one size to (N, H, W) bool; raises InputError for RLE that is not valid.

    An empty list has no size and gives shape (0, 0, 0).
    """
    if isinstance(rles, Mapping):
        raise InputError("expected a list of RLE, got one. Call decode_one.")
    sizes = {_size(rle, max_pixels) for rle in rles}
    if len(sizes) > 1:
        raise InputError(
            f"masks of one photo have one size, got {sorted(sizes)} (H, W). Decode them one by one."
        )
    hw = sizes.pop() if sizes else (0, 0)
    masks = np.empty((len(rles), *hw), dtype=bool)
    for mask, rle in zip(masks, rles):
        mask[:] = decode_one(rle, max_pixels=max_pixels)
    return masks


def decode_one(rle: Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RLE to a mask (H, W) bool; raises InputError for RLE that is not valid or larger than `max_pixels`."""
    height, width = _size(rle, max_pixels)
    runs = _runs(rle, (height, width))
    values = (np.arange(runs.size) % 2).astype(np.uint8)
    columns = np.repeat(values, runs).reshape(width, height)
    return np.asarray(cv2.transpose(columns)).view(bool)  # ten times faster than numpy's copy of a transpose


def area(rle: Mapping[str, Any]) -> int:
    """Number of foreground pixels, without decoding."""
    return int(coco.area(_checked(rle)))


def to_bbox_xywh(rle: Mapping[str, Any]) -> list[int]:
    """Tight box [x, y, w, h] in pixels, without decoding; w and h count columns and rows, as COCO does.

    segment_anything's boxes end *on* the last pixel (`masks.mask_boxes`), so theirs are one narrower and
    lower. An empty mask gives [0, 0, 0, 0].
    """
    return [int(n) for n in coco.toBbox(_checked(rle))]


def to_uncompressed(rle: Mapping[str, Any]) -> RLE:
    """The same mask with `counts` as a list of run lengths."""
    hw = _size(rle, MAX_RUN_PIXELS)
    return {"size": list(hw), "counts": [int(n) for n in _runs(rle, hw)]}


def to_compressed(rle: Mapping[str, Any]) -> RLE:
    """The same mask with `counts` as a str, ready for JSON."""
    checked = _checked(rle)
    return {"size": checked["size"], "counts": checked["counts"].decode("ascii")}


def _binary(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0:
        raise InputError(f"expected a mask (H, W) of at least 1×1 pixels, got shape {mask.shape}.")
    if mask.dtype == bool:
        return np.ascontiguousarray(mask).view(np.uint8)
    if mask.dtype.kind not in "iu" or mask.min() < 0 or mask.max() > 1:
        raise InputError(
            f"expected a mask of bool or 0 and 1, got {mask.dtype} up to {mask.max()}. Pass mask > threshold."
        )
    return mask.astype(np.uint8)


def _checked(rle: Mapping[str, Any], max_pixels: int = MAX_RUN_PIXELS) -> RLE:
    """A valid compressed RLE as pycocotools wants it (`counts` as bytes), or InputError."""
    hw = _size(rle, max_pixels)
    runs = _runs(rle, hw)
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        return {"size": list(hw), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    return dict(coco.frPyObjects({"size": list(hw), "counts": runs.tolist()}, *hw))


def _size(rle: Any, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        got = f"keys {sorted(map(str, rle))}" if isinstance(rle, Mapping) else type(rle).__name__
        raise InputError(f"expected RLE as {{'size': [H, W], 'counts': …}}, got {got}.")
    size = rle["size"]
    is_pair = isinstance(size, Sequence | np.ndarray) and not isinstance(size, str) and len(size) == 2
    if not is_pair or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in size
    ):
        raise InputError(f"RLE 'size' must be [H, W], two positive integers, got {size!r}.")
    height, width = int(size[0]), int(size[1])
    if height * width > min(max_pixels, MAX_RUN_PIXELS):
        raise InputError(
            f"RLE of {height}×{width} pixels (H×W) is larger than the limit of {max_pixels:,}. "
            "Raise max_pixels if you trust where it comes from."
        )
    return height, width


def _runs(rle: Mapping[str, Any], hw: tuple[int, int]) -> np.ndarray:
    """Run lengths (K,) int64 that are not negative and fill the mask, or InputError."""
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        runs = _unpack(counts)
    elif isinstance(counts, list | tuple | np.ndarray):
        runs = np.asarray(counts)
        if runs.ndim != 1 or runs.dtype.kind not in "iu":
            raise InputError("RLE 'counts' must be whole numbers, or a compressed str.")
        runs = runs.astype(np.int64)
    else:
        raise InputError(f"RLE 'counts' must be a str or a list of integers, got {type(counts).__name__}.")
    pixels = hw[0] * hw[1]
    if runs.size == 0 or runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise InputError(
            f"RLE runs must be 0 or more and sum to {hw[0]}×{hw[1]} = {pixels} pixels; these do not. "
            "The entry is damaged, or its 'size' is not (H, W)."
        )
    return runs


def _unpack(counts: str | bytes) -> np.ndarray:
    """Run lengths of a compressed text, which pycocotools does not hand out.

    Each character carries 5 bits (code - 48), bit 5 says that more follow, lowest bits first, the last one's
    bit 4 is the sign; from the fourth run on, the difference to the run before the last is stored.
    """
    damaged = InputError("RLE 'counts' is not COCO's compressed text. The entry is damaged.")
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise damaged from None
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise damaged
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:  # 35 bits hold every run of a mask under 2**32 pixels
        raise damaged
    place = np.arange(codes.size) - np.repeat(first, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), first)
    runs -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
