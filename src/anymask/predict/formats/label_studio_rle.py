"""Label Studio's brush: run lengths of an RGBA picture, row by row, packed into bits ("rle-pack" of thi.ng).

32 bits: how many values; 5: bits of a value, less 1; four times 4: bits of a length, less 1. Then runs: 1 bit, repeated
or not; 2 bits, which of the four; the length less 1; the value, or as many values as the length says. A mask is where
alpha is above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.core.geometry import MAX_PIXELS
from anymask.core.rle import RLE, decode_one, encode_one

_LENGTH_BITS = (3, 4, 8, 16)
_LONGEST = 2**16
_WORD_BITS = 8


def pack(rle: RLE) -> list[int]:
    """A mask as the whole numbers 0 … 255 that Label Studio keeps."""
    mask = decode_one(rle).reshape(-1)
    changes = np.flatnonzero(np.diff(mask)) + 1
    lengths = (4 * np.diff(changes, prepend=0, append=mask.size)).tolist()  # four channels
    bits = [f"{4 * mask.size:032b}", f"{_WORD_BITS - 1:05b}", *(f"{n - 1:04b}" for n in _LENGTH_BITS)]
    inside = bool(mask[0])
    for length in lengths:
        value = "11111111" if inside else "00000000"
        while length:
            part = min(length, _LONGEST)
            which = next(i for i, n in enumerate(_LENGTH_BITS) if part <= 2**n)
            bits.append(f"1{which:02b}{part - 1:0{_LENGTH_BITS[which]}b}{value}")
            length -= part
        inside = not inside
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def unpack(numbers: Any, hw: tuple[int, int]) -> RLE:
    """The mask (H, W) of such numbers. InputError for what is damaged or of another size."""
    height, width = hw
    if min(hw) < 1 or height * width > MAX_PIXELS:
        raise InputError(f"a brush of {hw} pixels (H, W) is not one that can be read.")
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or not numbers:
        raise InputError("a brush must be a list of whole numbers 0 … 255.")
    try:
        packed = bytes(numbers)
    except (TypeError, ValueError) as error:
        raise InputError(f"a brush must be a list of whole numbers 0 … 255: {error}.") from error
    bits = "".join(f"{byte:08b}" for byte in packed)
    try:
        ends, values = _runs(bits, 4 * height * width)
    except ValueError as error:  # an empty slice of bits: they ended too early
        raise InputError(f"a brush is damaged: {error}.") from error
    pixels = np.diff(np.array(ends) // 4, prepend=0)  # of each run: its alpha values, every fourth
    mask = np.repeat(np.array(values) > 0, pixels)
    return encode_one(mask.reshape(height, width))


def _runs(bits: str, expected: int) -> tuple[list[int], list[int]]:
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > len(bits):
            raise ValueError("it ends in the middle of a run")
        return int(bits[at - size : at], 2)

    num = read(32)
    if num != expected:
        raise InputError(f"a brush holds {num:,} values, its photo needs {expected:,}: four for each pixel.")
    word = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    ends: list[int] = []
    values: list[int] = []
    end = 0
    while end < num:
        is_repeated = read(1)
        length = read(sizes[read(2)]) + 1
        if end + length > num:
            raise ValueError("a run leaves the photo")
        for _ in range(1 if is_repeated else length):
            end += length if is_repeated else 1
            ends.append(end)
            values.append(read(word))
    return ends, values
