"""SA-1B's tar shards: `sa_1.jpg` beside `sa_1.json`. Read here; `anymask everything` writes them, having the photos."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from anymask.core.errors import InputError
from anymask.predict.formats.files import files_in, naming
from anymask.predict.formats.sa1b import of_json
from anymask.predict.records import PhotoMasks


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """Always raises InputError: these shards hold the photos, which masks alone do not bring along."""
    raise InputError(
        "tar shards hold the photos beside their masks, so they cannot be made from masks alone. "
        "Run: anymask everything photos/ -o shards/ --format sa1b-shards"
    )


def read(path: Path) -> list[PhotoMasks]:
    """The masks of a shard, or of all shards of a folder."""
    photos = []
    for file in files_in(path, "*.tar"):
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if member.isfile() and member.name.endswith(".json"):
                        handle = tar.extractfile(member)
                        assert handle is not None
                        with naming(file / member.name):
                            photos.append(of_json(json.load(handle)))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{file} is no readable tar shard: {error}. Download it again.") from error
    return photos
