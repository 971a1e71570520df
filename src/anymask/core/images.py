"""Photos in and out: all that arrives becomes (H, W, 3) uint8 RGB, upright, or is refused with the reason.

The model was trained on upright 8-bit RGB photos. Files, bytes, Pillow images and arrays of every usual kind
are turned into that in one place, so that a click lands on the same pixel everywhere: rotated by their EXIF
note, 16-bit scaled to 8, palettes and CMYK converted, transparency laid over white.

Why white and not the alpha channel dropped: the colours under transparent pixels are arbitrary (editors leave
black, or whatever was cut away). Viewers and browsers show such a picture over a light page, so that is the
picture people click on, and the one the model must see.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from anymask.core.errors import ImageError, OptionError
from anymask.core.files import write_aside
from anymask.core.geometry import MAX_PIXELS

# Pillow's names. Not EPS (Pillow hands it to Ghostscript) nor formats nobody keeps photos in.
FORMATS = frozenset(
    ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "JPEG2000", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA"]
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF 2.32, tag 0x0112, to what makes the picture upright
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101
_FROM_16_BIT = ((np.arange(2**16) + 128) // 257).astype(np.uint8)  # 65535 -> 255, rounded to nearest
_ROUNDING = 1e-3  # floats may leave 0..1 by this much, as resizing does
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://|data:)")
_HAND_IN = "Pass a path, bytes, a Pillow image, or an array (H, W, 3) uint8"


def read_image(source: Any, *, image_format: str = "RGB", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Any picture as an upright RGB array (H, W, 3) uint8, C-contiguous and writable.

    source: a path (str or Path); bytes of a file; a Pillow image; or an array (H, W), (H, W, 1), (H, W, 2)
    gray and
        alpha, (H, W, 3) or (H, W, 4), of dtype uint8, uint16 (65535 is white), bool, or float in 0..1. Floats
        in 0..255 are refused: guessing the scale from the values turns a dark photo into a bright one. Of an
        animation the first frame is read. A uint8 RGB array comes back as it is, not copied.
    image_format: colour order of an array, "RGB" or "BGR" (as OpenCV reads); files carry their own order.
    max_pixels: a file or Pillow image that would decode to more is refused from its header, before any
    decoding.

    Raises ImageError for everything that is not such a picture; OptionError for another `image_format`.
    """
    if image_format not in ("RGB", "BGR"):
        raise OptionError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source, image_format)
    if image_format == "BGR":
        raise OptionError(
            "image_format='BGR' describes arrays; files and Pillow images carry their own colour order. "
            "Leave it out."
        )
    if isinstance(source, Image.Image):
        return _decode(source, "the Pillow image", max_pixels)
    name, openable = _openable(source)
    with _open(name, openable, max_pixels) as image:
        return _decode(image, name, max_pixels)


def image_hw(source: Any) -> tuple[int, int]:
    """Size (H, W) that `read_image` would give for a path or bytes; reads the header only, at any size."""
    name, openable = _openable(source)
    with _open(name, openable, None) as image:
        width, height = image.size
        turn = _orientation(image)
        if image.format == "TIFF":  # Pillow's own size is before or after turning, depending on its version
            tags: Any = getattr(image, "tag_v2", {})
            width, height = tags.get(_TIFF_WIDTH, width), tags.get(_TIFF_HEIGHT, height)
            turn = tags.get(_ORIENTATION, 1)
        return (width, height) if turn in (5, 6, 7, 8) else (height, width)


def resize_image(image: np.ndarray, frame_hw: tuple[int, int]) -> np.ndarray:
    """A photo (H, W, 3) uint8 scaled to `frame_hw` (h, w): Pillow's antialiased bilinear filter.

    Equal bit for bit to what segment_anything does (PAPER §2.1 step 2). The same size comes back uncopied.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"expected (H, W, 3) uint8, got {_kind(image)}. Pass it through read_image first.")
    height, width = frame_hw
    if height < 1 or width < 1:
        raise ImageError(f"an image needs at least 1×1 pixels, cannot resize to {height}×{width} (H×W).")
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def write_image(path: str | Path, array: np.ndarray) -> None:
    """Write a picture as PNG or JPEG (quality 95), by suffix; a crash never leaves half a file.

    array: (H, W, 3) RGB or (H, W) gray, uint8; (H, W) bool as black and white; (H, W, 4) RGBA as PNG only.
    """
    path = Path(path)
    file_format = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if file_format is None:
        raise OptionError(f"{path.name}: the name must end in .png, .jpg or .jpeg.")
    if not path.parent.is_dir():
        raise ImageError(f"cannot write {path.name}: there is no folder {path.parent}. Create it first.")
    array = np.asarray(array)
    if array.dtype == bool and array.ndim == 2:
        array = array.astype(np.uint8) * 255
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        raise ImageError(
            f"expected (H, W), (H, W, 3) or (H, W, 4) uint8, or (H, W) bool, got {_kind(array)}."
        )
    if channels == 4 and file_format == "JPEG":
        raise ImageError(f"{path.name}: JPEG has no transparency. Write .png, or drop the fourth channel.")
    image = Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    with write_aside(path) as part:
        image.save(part, format=file_format, **options)


def _openable(source: Any) -> tuple[str, Any]:
    """A name for messages, and what Pillow can open: a path that is a file, or a buffer."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes", io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(f"cannot read an image from {type(source).__name__}. {_HAND_IN}.")
    name = os.fspath(source)
    if scheme := _SCHEME.match(name):
        raise ImageError(
            f"expected a local file, got an address ({scheme[0]}…). Fetch it and pass the path or the bytes."
        )
    path = Path(name)
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder, expected one image file. Pass the files in it one by one.")
        if not path.exists():
            raise ImageError(f"there is no file {name}. Check the path.")
        if not path.is_file():
            raise ImageError(f"{name} is not a regular file. {_HAND_IN}.")
    except OSError as error:
        raise ImageError(f"cannot read {name[:200]}: {error.strerror}.") from error
    return name, path


@contextmanager
def _open(name: str, openable: Any, max_pixels: int | None) -> Iterator[Image.Image]:
    """The picture with only its header read; refused if it is none, or too large."""
    try:
        with _pillow_unguarded():
            image = Image.open(openable)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image: {_what_it_is(openable)}.") from error
    except Exception as error:  # decoders of foreign data raise anything
        raise ImageError(f"{name} cannot be read: {error}. Check or re-export the file.") from error
    with image:
        if image.format not in FORMATS:
            raise ImageError(
                f"{name} is a {image.format} file, which is not read. Convert it to PNG or JPEG."
            )
        _check_pixels(image, name, max_pixels)
        yield image


def _decode(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    """The pixels of an opened picture: decoded, upright, RGB."""
    _check_pixels(image, name, max_pixels)
    pillow_limit = Image.MAX_IMAGE_PIXELS
    is_huge = pillow_limit is not None and image.width * image.height > pillow_limit
    try:
        with _pillow_unguarded() if is_huge else nullcontext():
            image.load()
        turn = _TURNS.get(_orientation(image))
        return _pillow_to_rgb(image.transpose(turn) if turn is not None else image)
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # decoders of foreign data raise anything
        raise ImageError(f"{name} is broken or cut off: {error}. Fetch or export it again.") from error


def _check_pixels(image: Image.Image, name: str, max_pixels: int | None) -> None:
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} would decode to {image.width}×{image.height} pixels, over the limit of {max_pixels:,}. "
            "Shrink it, or raise max_pixels if you trust where it comes from."
        )


def _pillow_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits in a 32-bit mode, white is 65535
        return _array_to_rgb(np.asarray(image).clip(0, 65535).astype(np.uint16), "RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _array_to_rgb(np.asarray(image), "RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _array_to_rgb(array: np.ndarray, image_format: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " Channels come last: array.transpose(1, 2, 0)."
        elif array.ndim == 4:
            hint = " Pass one image at a time."
        raise ImageError(f"expected an array (H, W), (H, W, 3) or (H, W, 4), got {_kind(array)}.{hint}")
    if array.size == 0:
        raise ImageError(f"the image is empty: {_kind(array)}. It needs at least 1×1 pixels.")
    array = _to_uint8(array)
    channels = array.shape[2]
    if channels in (3, 4) and image_format == "BGR":
        array = array[..., [2, 1, 0, 3][:channels]]
    if channels == 1:
        array = array.repeat(3, axis=2)
    if channels in (2, 4):
        rgba = array if channels == 4 else array[..., [0, 0, 0, 1]]
        return _pillow_to_rgb(Image.fromarray(np.ascontiguousarray(rgba)))
    return np.require(array, requirements=["C", "W"])


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """Values by the range of their dtype, white to 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _FROM_16_BIT[array]
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError("the image holds NaN or infinite values. Replace them first: numpy.nan_to_num.")
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ImageError(
                f"float images are read as 0..1, got values from {low:g} to {high:g}. "
                "If white is 255, pass array.astype(numpy.uint8)."
            )
        return (array.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    raise ImageError(
        f"expected dtype uint8, uint16, bool or float in 0..1, got {array.dtype}. "
        "If the values are 0..255, pass array.astype(numpy.uint8)."
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 … 8 still to be applied; 1 where there is none, or the EXIF block is broken."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF files itself while loading
    try:
        with _pillow_unguarded():
            # not PNG's own method, which decodes the pixels; like browsers, ignore a note after the pixels
            turn = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the picture
        return 1
    return turn if isinstance(turn, int) else 1


_pillow_lock = threading.Lock()


@contextmanager
def _pillow_unguarded() -> Iterator[None]:
    """Pillow without its own pixel limit and warnings, both process-wide: one thread at a time, then
    restored.

    Our limit is checked right after the header, and is not a warning that may or may not be an error.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _what_it_is(openable: Any) -> str:
    """A guess for the message, from the first bytes."""
    if isinstance(openable, Path):
        with openable.open("rb") as file:
            head = file.read(256)
    else:
        openable.seek(0)
        head = openable.read(256)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run git lfs pull"
    if b"<svg" in text:
        return "it is an SVG drawing; export it as PNG"
    if text.startswith(b"<"):
        return "it is a web page or XML; the download gave a page instead of the photo"
    if text.startswith(b"%pdf"):
        return "it is a PDF; export the page as PNG"
    return "no known image header; expected JPEG, PNG, WebP, TIFF or another common format"


def _kind(array: np.ndarray) -> str:
    return f"shape {array.shape} {array.dtype}"
