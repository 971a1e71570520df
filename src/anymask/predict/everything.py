"""Masks of many photos into files: goes on where it stopped, skips what is done, survives what is broken.

For each photo the outputs are written first and a small entry in `.anymask/` last, each whole or not at all. The
entry holds a hash of the photo's bytes and of everything that decides the result. A run that finds a fitting entry
leaves the photo alone; killed at any moment, the next run does over what has no entry. Formats in which photos share
a file keep the masks in the entries until all are there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import AnymaskError, InputError
from anymask.core.geometry import scaled_hw
from anymask.core.images import read_image, resize_image, write_image
from anymask.predict.automatic import Progress, SamAutomaticMaskGenerator
from anymask.predict.formats import FORMATS, require_parts, write_masks
from anymask.predict.formats.files import load_json, naming, write_json
from anymask.predict.formats.sa1b import of_json, to_json
from anymask.predict.label_picture import LONGEST_PX, label_picture
from anymask.predict.options import AutomaticOptions
from anymask.predict.pictures import open_picture, reduced
from anymask.predict.records import PhotoMasks
from anymask.predict.render import contact_sheet
from anymask.predict.sources import STATE, PhotoSource, with_unique_stems
from anymask.predict.tiles import Tiles, segment_tiles

OVERLAYS = "overlays"
SHEET = "contact-sheet.jpg"
SHEET_PHOTOS = 48  # at most, on the contact sheet
_VERSION = 1  # of the entries; raise it when the same options give other masks


@dataclass(frozen=True)
class Plan:
    """What to do with each photo. model: what tells these weights from others. overlays: draw pictures too."""

    folder: Path
    format_name: str
    options: AutomaticOptions
    model: str
    overlays: bool = True
    time_budget_s: float | None = None
    tiles: Tiles | None = None

    def options_hash(self) -> str:
        """Of everything but the photo that decides the output."""
        decides = [_VERSION, self.format_name, asdict(self.options), self.model, self.overlays, self.time_budget_s]
        if self.tiles is not None:
            decides.append(asdict(self.tiles))
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def entry(self, source: PhotoSource) -> Path:
        """Where it is noted that a photo is done."""
        return self.folder / STATE / (f"{source.group}.photos" if source.group else "") / f"{source.stem}.json"

    def overlay(self, source: PhotoSource) -> Path:
        """Where the picture of a photo goes."""
        return self.folder / OVERLAYS / f"{source.stem}.jpg"


@dataclass(frozen=True)
class Outcome:
    """How one photo went. error: the reason why there are no masks; skipped: they were there already."""

    source: PhotoSource
    num_masks: int = 0
    skipped: bool = False
    error: str | None = None


def prepare(plan: Plan) -> None:
    """Make the folders; an unwritable place or a missing part is told before any photo is worked on."""
    require_parts(plan.format_name)
    try:
        (plan.folder / STATE).mkdir(parents=True, exist_ok=True)
        (plan.folder / STATE / ".writable").touch()
        (plan.folder / STATE / ".writable").unlink()
        if plan.overlays:
            (plan.folder / OVERLAYS).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {plan.folder}: {error.strerror}. Choose another --output.") from error


def named_for(plan: Plan, sources: list[PhotoSource]) -> list[PhotoSource]:
    """Sources with stems under which no other photo, of this run or an earlier one, has its output."""

    def is_anothers(stem: str, source: PhotoSource) -> bool:
        entry = read_entry(plan.folder / STATE / f"{stem}.json")
        if entry is None or entry["place"] == source.place:
            return False
        return Path(entry["path"]).exists()  # a photo that was moved keeps its stem

    return with_unique_stems(sources, is_anothers)


def segment_photo(
    generator: SamAutomaticMaskGenerator, source: PhotoSource, plan: Plan, progress: Progress | None = None
) -> Outcome:
    """Read, segment and write one photo, or skip it. What is wrong with the photo comes back as the error."""
    try:
        encoded = source.read() if plan.tiles is None else None  # tiles: it may be larger than memory
        digest = source.sha256() if encoded is None else hashlib.sha256(encoded).hexdigest()
        key = f"{digest}-{plan.options_hash()}"
        done = read_entry(plan.entry(source))
        if done is not None and done["key"] == key and done["file_name"] == output_name(source):
            return Outcome(source, int(done["num_masks"]), skipped=True)
        if encoded is not None:
            image = read_image(encoded)
            records = generator.generate(image, time_budget_s=plan.time_budget_s, progress=progress)
            hw = (image.shape[0], image.shape[1])
        else:
            with open_picture(source) as picture:
                assert plan.tiles is not None
                records = segment_tiles(generator, picture, plan.tiles, plan.time_budget_s, progress)
                image, hw = reduced(picture, LONGEST_PX), picture.hw
        masks = PhotoMasks.of(output_name(source), hw, records, image_id_of(source.stem))
        _write(image, masks, source, plan, key)
        return Outcome(source, len(records))
    except (AnymaskError, OSError, MemoryError) as error:
        return Outcome(source, error=str(error) or type(error).__name__)


def finish(plan: Plan, sources: list[PhotoSource]) -> list[Path]:
    """What all photos share: the one file of formats that have one, and the contact sheet."""
    written = []
    if FORMATS[plan.format_name].one_file:
        written += write_masks(_done(plan, sources), plan.folder, plan.format_name)
    shown = [s for s in sources if plan.overlay(s).is_file()][:SHEET_PHOTOS] if plan.overlays else []
    if len(shown) > 1:
        pictures = [_small(read_image(plan.overlay(s))) for s in shown]
        sheet = plan.folder / OVERLAYS / SHEET
        write_image(sheet, contact_sheet(pictures, [s.file_name for s in shown]))
        written.append(sheet)
    return written


def segment_here(
    generator: SamAutomaticMaskGenerator,
    sources: Iterable[PhotoSource],
    plan: Plan,
    within: Callable[[float], None] = lambda part: None,
) -> Iterator[Outcome]:
    """Photos one after the other, in this process. within: called with the part of a photo that is done."""
    for source in sources:
        yield segment_photo(generator, source, plan, lambda tried, total: within(min(tried / total, 0.99)))


def image_id_of(stem: str) -> int:
    """SA-1B's number in `sa_<id>`; for other names a number that depends on the name only."""
    number = re.fullmatch(r"sa_(\d+)", stem)
    return int(number[1]) if number else 1 + int(hashlib.sha256(stem.encode()).hexdigest()[:12], 16)


def output_name(source: PhotoSource) -> str:
    """The photo's name; with its number where two photos share one."""
    return source.stem + Path(source.file_name).suffix


def read_entry(path: Path) -> dict[str, Any] | None:
    """An entry, or None where there is none that can be used."""
    if not path.is_file():
        return None
    try:
        entry = load_json(path)
    except InputError:
        return None
    return entry if {"key", "file_name", "place", "path", "num_masks"} <= entry.keys() else None


def _write(image: np.ndarray, masks: PhotoMasks, source: PhotoSource, plan: Plan, key: str) -> None:
    """Outputs of one photo, its entry last."""
    is_shared = FORMATS[plan.format_name].one_file
    if not is_shared:
        write_masks([masks], plan.folder, plan.format_name)
    if plan.overlays:
        write_image(plan.overlay(source), label_picture(image, masks))
    entry: dict[str, Any] = {
        "key": key,
        "file_name": masks.file_name,
        "place": source.place,
        "path": str(source.path.resolve()),
        "num_masks": len(masks.masks),
    }
    if is_shared:
        entry["masks"] = to_json(masks)
    path = plan.entry(source)
    path.parent.mkdir(exist_ok=True)
    write_json(entry, path)


def _done(plan: Plan, sources: list[PhotoSource]) -> Iterator[PhotoMasks]:
    for source in sources:
        entry = read_entry(plan.entry(source))
        if entry is not None and "masks" in entry and entry["key"].endswith(plan.options_hash()):
            with naming(plan.entry(source)):
                yield of_json(entry["masks"])


def _small(picture: np.ndarray, longest_px: int = 480) -> np.ndarray:
    return resize_image(picture, scaled_hw((picture.shape[0], picture.shape[1]), longest_px))
