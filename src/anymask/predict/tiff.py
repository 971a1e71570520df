"""Windows of a TIFF picture without decoding the rest: only the tiles or strips that a window touches are read.

Each of them is handed to Pillow as a small TIFF file of its own, so every compression that Pillow knows works, and
nothing of the format but its directory is read here. Classic TIFF and BigTIFF; the file's first picture.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import ImageError
from anymask.core.images import read_image

CACHE_BYTES = 64 * 2**20  # of decoded tiles that the next window may need again
_DTYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u8", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 10: "u8", 11: "f4"}
_DTYPES |= {12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}  # from 16 on BigTIFF's
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT = 277, 278, 284, 322, 323
_OFFSETS, _NUM_BYTES = {True: 324, False: 273}, {True: 325, False: 279}  # of tiles, of strips
# what the decoding of one tile depends on: also fill order, fax options, predictor, palette, alpha, format, JPEG, YCbCr
_COPIED = (_BITS, _COMPRESSION, _PHOTOMETRIC, 266, _SAMPLES, _PLANAR, 292, 293, 317, 320, 338, 339, 347, 530, 531, 532)
_OLD_JPEG = 6

Entry = tuple[int, int, bytes]  # type, count, value in the file's byte order


class TiffWindows:
    """A TIFF file, open for windows. hw: its size (H, W).

    offset: where the TIFF begins in the file. Raises ImageError if it is none, or one whose parts cannot be decoded
    alone (colour planes apart, turned, old JPEG).
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._file, self._offset = path.open("rb"), offset
        try:
            self._order, self._tags = self._read_directory()
            self.hw = (self._number(_HEIGHT), self._number(_WIDTH))
            self._check()
        except BaseException:
            self.close()
            raise
        self._is_tiled = _TILE_WIDTH in self._tags
        tile_w = self._number(_TILE_WIDTH) if self._is_tiled else self.hw[1]
        tile_h = self._number(_TILE_HEIGHT) if self._is_tiled else self._number(_ROWS_PER_STRIP, self.hw[0])
        self._tile_hw = (min(tile_h, self.hw[0]) if not self._is_tiled else tile_h, tile_w)
        self._offsets = self._numbers(_OFFSETS[self._is_tiled])
        self._num_bytes = self._numbers(_NUM_BYTES[self._is_tiled])
        if not (tile_h > 0 and tile_w > 0 and self._offsets):
            self.close()
            raise ImageError("the TIFF's directory is broken.")
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def window(self, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
        """Pixels of a box x0, y0, x1, y1 (the end excluded) inside the picture, (h, w, 3) uint8 RGB."""
        x0, y0, x1, y1 = box_xyxy
        pixels = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
        tile_h, tile_w = self._tile_hw
        for row in range(y0 // tile_h, -(-y1 // tile_h)):
            for column in range(x0 // tile_w, -(-x1 // tile_w)):
                top, left = row * tile_h, column * tile_w
                tile = self._tile(row, column)
                t, b = max(top, y0), min(top + tile.shape[0], y1)
                l, r = max(left, x0), min(left + tile.shape[1], x1)  # noqa: E741
                pixels[t - y0 : b - y0, l - x0 : r - x0] = tile[t - top : b - top, l - left : r - left]
        return pixels

    def _tile(self, row: int, column: int) -> np.ndarray:
        index = row * -(-self.hw[1] // self._tile_hw[1]) + column
        if index not in self._cache:
            size = self._tile_hw[0] * self._tile_hw[1] * 3
            while self._cache and (len(self._cache) + 1) * size > CACHE_BYTES:
                self._cache.popitem(last=False)
            self._cache[index] = self._decode(row, index)
        self._cache.move_to_end(index)
        return self._cache[index]

    def _decode(self, row: int, index: int) -> np.ndarray:
        """One tile or strip (h, w, 3); tiles at the border come with their padding."""
        height, width = self._tile_hw
        if not self._is_tiled:
            height = min(height, self.hw[0] - row * height)
        if index >= len(self._offsets) or index >= len(self._num_bytes):
            raise ImageError(f"the TIFF's directory names {len(self._offsets)} tiles, too few for its size.")
        if not self._num_bytes[index]:
            return np.zeros((height, width, 3), dtype=np.uint8)  # a sparse file: nothing was ever written there
        self._file.seek(self._offset + self._offsets[index])
        encoded = self._file.read(self._num_bytes[index])
        if len(encoded) < self._num_bytes[index]:
            raise ImageError("the TIFF is cut off. Fetch or export it again.")
        tile = read_image(self._as_file(encoded, height, width))
        if tile.shape[:2] != (height, width):
            raise ImageError(f"a TIFF tile of {tile.shape[:2]} (H, W) where {(height, width)} was expected.")
        return tile

    def _as_file(self, encoded: bytes, height: int, width: int) -> bytes:
        """A classic TIFF with one strip."""
        order = self._order
        entries: dict[int, Entry] = {tag: self._tags[tag] for tag in _COPIED if tag in self._tags}
        data_at = 8
        for tag, number in (
            (_WIDTH, width),
            (_HEIGHT, height),
            (_OFFSETS[False], data_at),
            (_ROWS_PER_STRIP, height),
            (_NUM_BYTES[False], len(encoded)),
        ):
            entries[tag] = (4, 1, struct.pack(order + "I", number))
        body = bytearray(encoded + b"\0" * (len(encoded) % 2))
        fields = []
        for tag, (kind, count, value) in sorted(entries.items()):
            if len(value) > 4:
                at = data_at + len(body)
                body += value + b"\0" * (len(value) % 2)
                value = struct.pack(order + "I", at)
            fields.append(struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0"))
        magic = b"II" if order == "<" else b"MM"
        head = magic + struct.pack(order + "HI", 42, data_at + len(body))
        return b"".join([head, body, struct.pack(order + "H", len(fields)), *fields, b"\0" * 4])

    def _read_directory(self) -> tuple[str, dict[int, Entry]]:
        order = {b"II": "<", b"MM": ">"}.get(self._at(0, 2))
        if order is None:
            raise ImageError("is no TIFF.")
        magic = self._unpack(order, 2, "H")
        if magic not in (42, 43):
            raise ImageError("is no TIFF.")
        is_big = magic == 43
        word, count_kind, size = ("Q", "Q", 20) if is_big else ("I", "H", 12)
        at = self._unpack(order, 8 if is_big else 4, word)
        num = self._unpack(order, at, count_kind)
        if num > 4096:
            raise ImageError("the TIFF's directory is broken.")
        at += struct.calcsize(order + count_kind)
        tags: dict[int, Entry] = {}
        inline = struct.calcsize(order + word)
        for i in range(num):
            field = self._at(at + i * size, size)
            tag, kind, count = struct.unpack(order + "HH" + word, field[: 4 + inline])
            if kind not in _DTYPES:
                continue
            num_bytes = count * np.dtype(_DTYPES[kind]).itemsize
            value = field[4 + inline :][:num_bytes]
            if num_bytes > inline:
                value = self._at(struct.unpack(order + word, field[4 + inline :])[0], num_bytes)
            tags[tag] = (kind, count, value)
        return order, tags

    def _check(self) -> None:
        if not (self.hw[0] and self.hw[1]):
            raise ImageError("the TIFF holds no picture.")
        is_apart = self._number(_PLANAR, 1) == 2 and self._number(_SAMPLES, 1) > 1
        if is_apart or self._number(_ORIENTATION, 1) != 1 or self._number(_COMPRESSION, 1) == _OLD_JPEG:
            raise ImageError("the TIFF's tiles cannot be decoded one by one.")

    def _number(self, tag: int, default: int = 0) -> int:
        return self._numbers(tag)[0] if tag in self._tags else default

    def _numbers(self, tag: int) -> list[int]:
        if tag not in self._tags:
            return []
        kind, _, value = self._tags[tag]
        return [int(n) for n in np.frombuffer(value, dtype=self._order + _DTYPES[kind])]

    def _at(self, position: int, num_bytes: int) -> bytes:
        self._file.seek(self._offset + position)
        content = self._file.read(num_bytes)
        if len(content) < num_bytes:
            raise ImageError("the TIFF is cut off. Fetch or export it again.")
        return content

    def _unpack(self, order: str, position: int, kind: str) -> Any:
        return struct.unpack(order + kind, self._at(position, struct.calcsize(order + kind)))[0]
