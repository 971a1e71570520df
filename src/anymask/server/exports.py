"""Masks of one photo as one download: the formats of the package, packed together where they are several files."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path

from anymask.core.errors import InputError
from anymask.core.rle import to_compressed
from anymask.predict.formats import write_masks
from anymask.predict.records import MaskRecord, PhotoMasks
from anymask.server.schemas import Export

MAX_DRAWN_PIXELS = 2_000_000_000  # of all masks of an export together
_DRAWN = ("png", "labelmap")
_MEDIA_TYPES = {".json": "application/json", ".png": "image/png", ".xml": "application/xml", ".txt": "text/plain"}


def export(request: Export, max_pixels: int) -> tuple[bytes, str, str]:
    """The file, its media type and a name for it. Raises InputError for masks that are not valid or too much work."""
    pixels = request.width * request.height
    if pixels > max_pixels:
        raise InputError(f"a photo of {request.width}×{request.height} pixels is over the limit of {max_pixels:,}.")
    if request.format in _DRAWN and pixels * len(request.objects) > MAX_DRAWN_PIXELS:
        raise InputError(f"{len(request.objects)} masks of this size are too many to draw; take COCO, or fewer.")
    name = safe_name(request.file_name)
    records = [
        MaskRecord(
            to_compressed(o.segmentation.model_dump()), o.predicted_iou, o.stability_score, label=o.label or None
        )
        for o in request.objects
    ]
    photo = PhotoMasks(name, (request.height, request.width), tuple(records), 1)
    with tempfile.TemporaryDirectory(prefix="anymask-export-") as place:
        write_masks([photo], place, request.format)
        files = sorted(path for path in Path(place).rglob("*") if path.is_file())
        if len(files) == 1:
            suffix = files[0].suffix
            media_type = _MEDIA_TYPES.get(suffix, "application/octet-stream")
            return files[0].read_bytes(), media_type, f"{photo.stem}.{request.format}{suffix}"
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(place).as_posix())
    return packed.getvalue(), "application/zip", f"{photo.stem}.{request.format}.zip"


def safe_name(name: str) -> str:
    """A file name that is one plain name whatever came: no folders, no dots in front, no controls.

    >>> safe_name("../../etc/passwd")
    'passwd'
    """
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^\w .()+-]", "_", last).strip(" .")[-100:].strip(" .")
    return plain or "photo.jpg"
