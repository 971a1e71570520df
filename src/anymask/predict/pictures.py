"""Pictures that are too large to work on as a whole: windows of them, and a small version of all."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anymask.core.errors import ImageError
from anymask.core.geometry import MAX_PIXELS, scaled_hw
from anymask.core.images import image_hw, read_image, resize_image
from anymask.predict.sources import PhotoSource
from anymask.predict.tiff import TiffWindows

_BLOCK = 2048  # pixels, of the small version's windows
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Picture(Protocol):
    """A picture of size hw (H, W) that hands out windows of itself."""

    @property
    def hw(self) -> tuple[int, int]:
        """Its size (H, W)."""
        ...

    def window(self, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
        """Pixels of a box x0, y0, x1, y1 (the end excluded), (h, w, 3) uint8 RGB."""
        ...


class WholePicture:
    """A picture (H, W, 3) uint8 that is in memory: 3 bytes a pixel."""

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self.hw = (int(image.shape[0]), int(image.shape[1]))

    def window(self, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
        """Pixels of a box x0, y0, x1, y1 (the end excluded), (h, w, 3) uint8 RGB."""
        x0, y0, x1, y1 = box_xyxy
        return np.ascontiguousarray(self._image[y0:y1, x0:x1])


@contextmanager
def open_picture(source: Any) -> Iterator[Picture]:
    """A picture to take windows of: a path, a `PhotoSource`, or what `read_image` takes.

    A TIFF file is read tile by tile (or strip by strip), whatever its size. Everything else is decoded as a whole,
    up to 200 megapixels. Raises ImageError with the reason where it cannot be read.
    """
    if isinstance(source, str | Path):
        source = PhotoSource(str(source), Path(source), Path(source).stem)
    if not isinstance(source, PhotoSource):
        yield WholePicture(read_image(source))
        return
    tiff = _open_tiff(source)
    if tiff is None:
        content = source.path if source.is_file and source.problem is None else source.read()
        height, width = image_hw(content)
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"{width}×{height} pixels are more than the {MAX_PIXELS:,} that are held at once. Convert it to a "
                "tiled TIFF, which is read in parts: gdal_translate -co TILED=YES, or vips tiffsave --tile."
            )
        yield WholePicture(read_image(content))
        return
    try:
        yield tiff
    finally:
        tiff.close()


def reduced(picture: Picture, longest_px: int) -> np.ndarray:
    """The picture with its longer side at most `longest_px`, (h, w, 3) uint8; read block by block."""
    height, width = picture.hw
    h, w = scaled_hw(picture.hw, longest_px) if max(picture.hw) > longest_px else picture.hw
    small = np.empty((h, w, 3), dtype=np.uint8)
    rows, columns = max(1, _BLOCK * h // height), max(1, _BLOCK * w // width)
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        for left in range(0, w, columns):
            right = min(left + columns, w)
            box = (left * width // w, top * height // h, right * width // w, bottom * height // h)
            small[top:bottom, left:right] = resize_image(picture.window(box), (bottom - top, right - left))
    return small


def _open_tiff(source: PhotoSource) -> TiffWindows | None:
    """The picture in parts, or None where it has to be read as a whole."""
    if source.problem is not None or source.frame is not None:
        return None
    offset = source.offset or 0
    try:
        with source.path.open("rb") as file:
            file.seek(offset)
            if file.read(4) not in _TIFF:
                return None
        return TiffWindows(source.path, offset)
    except (ImageError, OSError, struct.error, ValueError):
        return None  # reading it as a whole works, or tells why not
