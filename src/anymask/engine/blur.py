"""Faces and plates made unrecognisable. The detector is the user's: none is shipped, so none is claimed.

A detector is any callable that takes a photo (H, W, 3) uint8 RGB and returns boxes (N, 4) x0, y0, x1, y1 in its pixels.
It is named as an ONNX file of OpenCV's YuNet, as `package.module:callable`, or as an entry point of "anymask.blur".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anymask.core.errors import InputError, OptionError, unknown_name
from anymask.core.files import sha256_of

GROUP = "anymask.blur"  # entry points that installed packages offer
MARGIN = 0.2  # of a box's side, added on every side: detectors cut foreheads and frames of plates
_CELLS = 6  # what is left of a region's detail along its longer side
_MIN_SCORE = 0.5  # of YuNet; lower than its default of 0.9, because a face too many is better than one too few

Detect = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Detector:
    """A detector with what a card says about it. what: "faces" or "plates"."""

    what: str
    name: str
    detect: Detect
    sha256: str | None = None

    def boxes(self, image: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) float x0, y0, x1, y1 inside the photo. InputError for an answer of another form."""
        found = np.asarray(self.detect(image), dtype=np.float64)
        found = found.reshape(-1, 4) if found.size == 0 else found
        if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
            raise InputError(
                f"the detector {self.name} returned an array of shape {found.shape}; expected boxes (N, 4) x0, y0, x1, "
                "y1, all of them numbers."
            )
        height, width = image.shape[:2]
        inside = found.clip(0, [width, height, width, height])
        return np.asarray(inside[(inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])])


def load_detector(what: str, name: str) -> Detector:
    """A detector by its name; it is tried on a blank photo. InputError or OptionError where that fails."""
    if name.lower().endswith(".onnx"):
        detector = _yunet(what, Path(name))
    elif ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            detector = Detector(what, name, getattr(import_module(module_name), attribute))
        except (ImportError, AttributeError) as error:
            raise OptionError(f"--{what} {name}: {error}. Expected package.module:callable.") from error
    else:
        offered = {point.name: point for point in entry_points(group=GROUP)}
        if name not in offered:
            if not offered:
                raise OptionError(
                    f"--{what} {name}: no installed package offers a detector. Give YuNet's .onnx file, or "
                    "package.module:callable."
                )
            raise unknown_name("detector", name, sorted(offered))
        detector = Detector(what, name, offered[name].load())
    if not callable(detector.detect):
        raise OptionError(f"--{what} {name} is no callable that takes a photo.")
    detector.boxes(np.zeros((320, 320, 3), np.uint8))
    return detector


def blur_boxes(image: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """The photo with an ellipse around each box reduced to a few blurred cells; nothing of the detail is left."""
    if not len(boxes_xyxy):
        return image
    image = image.copy()
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in boxes_xyxy:
        # the ellipse through the corners of the box with its margin
        half_w, half_h = ((b - a) * (0.5 + MARGIN) for a, b in ((x0, x1), (y0, y1)))
        centre = ((x0 + x1) / 2, (y0 + y1) / 2)
        axes = (half_w * 2**0.5, half_h * 2**0.5)
        left, top = (max(0, int(c - a)) for c, a in zip(centre, axes))
        right, bottom = (min(n, int(c + a) + 2) for n, c, a in zip((width, height), centre, axes))
        region = image[top:bottom, left:right]
        if not region.size:
            continue
        longer = max(region.shape[:2])
        cells = tuple(max(1, round(_CELLS * n / longer)) for n in region.shape[1::-1])
        coarse = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(coarse, region.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        inside = np.zeros(region.shape[:2], np.uint8)
        middle = (round(centre[0] - left), round(centre[1] - top))
        cv2.ellipse(inside, middle, (max(1, round(axes[0])), max(1, round(axes[1]))), 0, 0, 360, 255, -1)
        region[inside > 0] = smooth[inside > 0]
    return image


def _yunet(what: str, model: Path) -> Detector:
    if not model.is_file():
        raise InputError(f"--{what}: there is no file {model}. Get YuNet from OpenCV's model zoo, and give its path.")
    try:
        net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), _MIN_SCORE)
    except (cv2.error, AttributeError) as error:
        raise InputError(f"--{what}: {model} is no detector that OpenCV {cv2.__version__} can load: {error}") from error

    def detect(image: np.ndarray) -> np.ndarray:
        net.setInputSize(image.shape[1::-1])
        try:
            _, found = net.detect(np.ascontiguousarray(image[..., ::-1]))  # OpenCV takes BGR
        except cv2.error as error:
            raise InputError(f"{model} does not work as YuNet does: {error}") from error
        if found is None:
            return np.zeros((0, 4))
        return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)

    return Detector(what, f"YuNet ({model.name})", detect, sha256_of(model))
