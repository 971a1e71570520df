"""Frames of videos as photos, each decoded when its turn comes, by counting forward: exact for every codec.

Seeking by frame number is off by a few frames for many codecs, so it is not used. A process that takes frames in
order decodes the video once.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from anymask.core.errors import ImageError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
_TRUSTED = (".mp4", ".mov", ".m4v", ".avi")  # containers that store the number of frames


def count_frames(path: Path) -> int:
    """Frames of a video; counted one by one where the file does not tell. Raises ImageError if it is none."""
    capture = _open(path)
    told = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if path.suffix.lower() not in _TRUSTED or told <= 0:
        told = 0
        while capture.grab():
            told += 1
    capture.release()
    if not told:
        raise ImageError("holds no frame that can be decoded. Convert it to MP4 (H.264).")
    return told


def read_frame(path: Path, index: int) -> np.ndarray:
    """Frame `index` (from 0) as (H, W, 3) uint8 RGB, upright; ImageError where the video ends before."""
    return _player(path).frame(index)


class _Player:
    """An open video that stands before frame `_next`."""

    def __init__(self, path: Path) -> None:
        self._path, self._capture, self._next = path, _open(path), 0

    def frame(self, index: int) -> np.ndarray:
        if index < self._next:
            self._capture.release()
            self._capture, self._next = _open(self._path), 0
        while self._next < index and self._capture.grab():
            self._next += 1
        ok, picture = self._capture.read() if self._next == index else (False, None)
        if not ok or picture is None:
            raise ImageError(f"the video ends before frame {index}, or is broken there.")
        self._next += 1
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


@lru_cache(maxsize=1)
def _player(path: Path) -> _Player:
    """The video that this process is at."""
    return _Player(path)


def _open(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise ImageError("does not exist.")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ImageError("is no video that can be decoded. Convert it to MP4 (H.264).")
    return capture
