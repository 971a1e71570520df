"""A project of the store as the server offers it: photos by id alone, and embeddings made before they are asked for."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anymask.core.errors import AnymaskError, ImageError
from anymask.core.images import read_image
from anymask.core.rle import RLE
from anymask.engine.desk import image_in
from anymask.engine.records import StoredImage, StoredMask
from anymask.engine.store import Store
from anymask.server.lane import BULK, ENCODE, BusyError
from anymask.server.schemas import Rle
from anymask.server.schemas_project import StoredMaskInfo
from anymask.server.sessions import Session
from anymask.server.studio import Studio

_BROWSER_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}


@dataclass(frozen=True)
class Project:
    """Which project of which store. is_reviewed: a finished photo goes to somebody else for a second look.

    serving_id: the version of the project's model that the server has loaded, if it is one of the store's.
    """

    store: Store
    id: int
    name: str
    is_reviewed: bool = True
    serving_id: int | None = None
    _preparing: set[asyncio.Task] = field(default_factory=set)

    def image(self, image_id: int) -> StoredImage:
        """A photo of this project; StateError for any other."""
        return image_in(self.store, self.id, image_id)

    async def session(self, studio: Studio, image_id: int, urgency: int = ENCODE) -> Session:
        """The embedding of a photo, from the cache if it is there. ImageError where the file is gone or changed."""
        image = await asyncio.to_thread(self.image, image_id)
        known = studio.sessions.find(image.sha256[:32])
        return known or await studio.encode(await asyncio.to_thread(read_photo, image), urgency)

    def prepare(self, studio: Studio, image_ids: Sequence[int]) -> None:
        """Make the embeddings of these photos when the model has nothing else to do; the cache bounds them."""

        async def run() -> None:
            for image_id in image_ids:
                try:
                    await self.session(studio, image_id, BULK)
                except (AnymaskError, BusyError):
                    continue  # who opens the photo will be told

        if len(self._preparing) < 4:
            task = asyncio.get_running_loop().create_task(run())
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)


def read_photo(image: StoredImage) -> bytes:
    """The file of a photo. ImageError where it is gone, or is not what was added."""
    try:
        encoded = Path(image.place).read_bytes()
    except OSError as error:
        raise ImageError(
            f"{Path(image.place).name} is gone or cannot be read; its masks are kept. Put it back, or skip the photo."
        ) from error
    if hashlib.sha256(encoded).hexdigest() != image.sha256:
        raise ImageError(f"{Path(image.place).name} has changed since it was added, so masks may not fit. Put it back.")
    return encoded


def for_browser(encoded: bytes) -> tuple[bytes, str]:
    """A photo in a format that every browser opens, and its media type; others become PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as picture:
        media_type = _BROWSER_FORMATS.get(picture.format or "")
    if media_type is not None:
        return encoded, media_type
    drawn = io.BytesIO()
    Image.fromarray(read_image(encoded)).save(drawn, "PNG", compress_level=1)
    return drawn.getvalue(), "image/png"


def to_wire(mask: StoredMask) -> StoredMaskInfo:
    """A mask of the store for the page."""
    return StoredMaskInfo(
        id=mask.id,
        segmentation=_rle(mask.rle),
        state=mask.state,  # type: ignore[arg-type]
        stage=mask.stage,
        version=mask.version,
        author_kind=mask.author_kind,  # type: ignore[arg-type]
        author=mask.author,
        label=mask.label,
        predicted_iou=mask.predicted_iou,
        is_prefilled=mask.author_kind == "model" and mask.state == "proposed",
    )


def _rle(rle: RLE) -> Rle:
    return Rle(size=list(rle["size"]), counts=rle["counts"])
