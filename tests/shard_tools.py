"""Tar shards of small photos, and how to look into them; for the tests of shards."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(value: int, suffix: str = "PNG", hw: tuple[int, int] = (12, 15)) -> bytes:
    """A photo of one grey, encoded."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*hw, 3), value, np.uint8)).save(buffer, suffix)
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """A tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_700_000_000
            tar.addfile(member, io.BytesIO(content))
    return path


def members(path: Path) -> dict[str, bytes]:
    """What a tar holds, in order."""
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
