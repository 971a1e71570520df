"""Proves: the app's own arithmetic (TypeScript) is the package's: resizing, upscaling, run lengths, outlines, mask
prompts. Python writes what it gives into tests/golden/web.json, this test holds Python to it, `npm test` holds the app.

`python tests/test_app_golden.py` writes the file anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anymask.core.geometry import Frame
from anymask.core.images import resize_image
from anymask.core.masks import mask_to_logits
from anymask.core.rle import encode_one
from anymask.model.upscale import upscale_logits
from anymask.predict.formats.outlines import joined, to_outlines
from anymask.predict.zoom import Look, to_window, window_around

GOLDEN = Path(__file__).parent / "golden" / "web.json"


def golden() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "resize": [
            resize_case(rng, hw, side) for hw, side in [((37, 53), 16), ((9, 7), 24), ((64, 64), 64), ((3, 90), 32)]
        ],
        "upscale": [
            upscale_case(rng, hw, side)
            for hw, side in [((48, 64), 64), ((120, 90), 32), ((17, 200), 64), ((64, 64), 64), ((5, 5), 64)]
        ],
        "outlines": [
            outline_case(rng, hw, fill)
            for hw, fill in [((9, 12), 0.3), ((16, 16), 0.5), ((20, 31), 0.7), ((1, 1), 1.0)]
        ],
        "closer": [
            closer_case(rng, hw, box) for hw, box in [((300, 400), (31, 40, 60, 55)), ((500, 90), (2, 300, 30, 360.5))]
        ],
        "prompts": [prompt_case(rng, hw) for hw in [((64, 64)), ((48, 64))]],
    }


def resize_case(rng: np.random.Generator, hw: tuple[int, int], side: int) -> dict[str, Any]:
    image = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
    frame = Frame.of(hw, side)
    resized = resize_image(image, frame.input_hw).transpose(2, 0, 1)
    return {"hw": list(hw), "side": side, "rgb": image.ravel().tolist(), "resized": resized.ravel().tolist()}


def upscale_case(rng: np.random.Generator, hw: tuple[int, int], side: int) -> dict[str, Any]:
    cells = 16
    logits = torch.tensor(rng.normal(0, 4, (1, 1, cells // 2, cells // 2)).astype(np.float32))
    logits = torch.nn.functional.interpolate(logits, (cells, cells), mode="bilinear").round(decimals=3)
    frame = Frame.of(hw, side)
    values = upscale_logits(logits, side, frame.input_hw, hw)[0, 0].numpy()
    return {
        "hw": list(hw),
        "side": side,
        "cells": cells,
        "logits": [round(float(v), 3) for v in logits.ravel()],
        "near": int((np.abs(values) < 1e-3).sum()),
        "mask": encode_one(values > 0),
    }


def outline_case(rng: np.random.Generator, hw: tuple[int, int], fill: float) -> dict[str, Any]:
    mask = rng.random(hw) < fill
    found = to_outlines(encode_one(mask))
    return {
        "mask": encode_one(mask),
        "islands": len(found),
        "filled": encode_one(fill_of(found, hw)),
        "joined_points": len(joined(found)) if len(found) == 1 else None,
    }


def fill_of(found: list[np.ndarray], hw: tuple[int, int]) -> np.ndarray:
    from anymask.core.rle import decode_one
    from anymask.predict.formats.outlines import of_outlines

    return decode_one(of_outlines(found, hw))


def prompt_case(rng: np.random.Generator, hw: tuple[int, int]) -> dict[str, Any]:
    mask = np.kron(rng.random((hw[0] // 8, hw[1] // 8)) < 0.4, np.ones((8, 8))).astype(bool)
    logits = mask_to_logits(mask, Frame.of(hw, 64), (32, 32))[0]
    return {"hw": list(hw), "side": 64, "cells": 32, "mask": encode_one(mask), "logits": logits.ravel().tolist()}


def closer_case(rng: np.random.Generator, hw: tuple[int, int], box: tuple[float, ...]) -> dict[str, Any]:
    """A window of the photo, and logits on the way from the photo to it and back."""
    photo = Frame.of(hw, 64)
    window = window_around(np.array(box), photo, 64, 1.3)
    assert window is not None
    x0, y0, x1, y1 = window
    crop = Frame.of((y1 - y0, x1 - x0), 64)
    seen = rng.normal(0, 5, (1, 16, 16)).astype(np.float32).round(2)
    back = Look(seen, np.ones(1, np.float32), crop, x0, y0).on(photo, (16, 16))[0]
    into = to_window(seen[0], photo, window, crop, (16, 16))
    return {
        "hw": list(hw), "side": 64, "box": list(box), "margin": 1.3, "window": list(window), "cells": 16,
        "logits": seen.ravel().tolist(), "back": [round(float(v), 4) for v in back.ravel()],
        "into": [round(float(v), 4) for v in into.ravel()],
    }  # fmt: skip


def test_python_gives_what_the_app_is_held_to() -> None:
    assert json.loads(json.dumps(golden())) == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden()) + "\n")
