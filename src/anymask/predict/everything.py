"""Masks of many photos into files: goes on where it stopped, skips what is done, survives what is broken.

For each photo the outputs are written first and a small entry in `.anymask/` last, each whole or not at all. The
entry holds a hash of the photo's bytes and of everything that decides the result. A run that finds a fitting entry
leaves the photo alone; killed at any moment, the next run does over what has no entry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import AnymaskError, InputError
from anymask.core.geometry import scaled_hw
from anymask.core.images import read_image, resize_image, write_image
from anymask.predict.automatic import Progress, SamAutomaticMaskGenerator
from anymask.predict.formats import FORMATS, write_masks
from anymask.predict.formats.files import load_json, naming, write_json
from anymask.predict.formats.sa1b import of_json, to_json
from anymask.predict.label_picture import label_picture
from anymask.predict.options import AutomaticOptions
from anymask.predict.records import PhotoMasks
from anymask.predict.render import contact_sheet
from anymask.predict.sources import STATE, PhotoSource

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

    def options_hash(self) -> str:
        """Of everything but the photo that decides the output."""
        decides = [_VERSION, self.format_name, asdict(self.options), self.model, self.overlays, self.time_budget_s]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def entry(self, source: PhotoSource) -> Path:
        """Where it is noted that a photo is done."""
        return self.folder / STATE / f"{source.stem}.json"

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
    """Make the folders; an unwritable place is told before any photo is worked on."""
    try:
        (plan.folder / STATE).mkdir(parents=True, exist_ok=True)
        (plan.folder / STATE / ".writable").touch()
        (plan.folder / STATE / ".writable").unlink()
        if plan.overlays:
            (plan.folder / OVERLAYS).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {plan.folder}: {error.strerror}. Choose another --output.") from error


def segment_photo(
    generator: SamAutomaticMaskGenerator, source: PhotoSource, plan: Plan, progress: Progress | None = None
) -> Outcome:
    """Read, segment and write one photo, or skip it. What is wrong with the photo comes back as the error."""
    try:
        encoded = source.read()
        key = f"{hashlib.sha256(encoded).hexdigest()}-{plan.options_hash()}"
        done = _read_entry(plan.entry(source))
        if done is not None and done["key"] == key and source.name == done["name"]:
            return Outcome(source, int(done["num_masks"]), skipped=True)
        image = read_image(encoded)
        records = generator.generate(image, time_budget_s=plan.time_budget_s, progress=progress)
        hw = (image.shape[0], image.shape[1])
        masks = PhotoMasks.of(_output_name(source), hw, records, image_id_of(source.stem))
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


def segment_photos(
    generator: SamAutomaticMaskGenerator,
    sources: list[PhotoSource],
    plan: Plan,
    progress: Callable[[int, float, Outcome | None], None] = lambda done, part, outcome: None,
) -> list[Outcome]:
    """All photos, one after the other. progress: photos done, part of the next, how the latest went."""
    prepare(plan)
    outcomes: list[Outcome] = []
    for i, source in enumerate(sources):

        def within(tried: int, total: int, done: int = i) -> None:
            progress(done, min(tried / total, 0.99), None)

        outcomes.append(segment_photo(generator, source, plan, within))
        progress(i + 1, 0.0, outcomes[-1])
    finish(plan, sources)
    return outcomes


def image_id_of(stem: str) -> int:
    """SA-1B's number in `sa_<id>`; for other names a number that depends on the name only."""
    number = re.fullmatch(r"sa_(\d+)", stem)
    return int(number[1]) if number else 1 + int(hashlib.sha256(stem.encode()).hexdigest()[:12], 16)


def _write(image: np.ndarray, masks: PhotoMasks, source: PhotoSource, plan: Plan, key: str) -> None:
    """Outputs of one photo, its entry last."""
    if not FORMATS[plan.format_name].one_file:
        write_masks([masks], plan.folder, plan.format_name)
    if plan.overlays:
        write_image(plan.overlay(source), label_picture(image, masks))
    entry: dict[str, Any] = {"key": key, "name": source.name, "num_masks": len(masks.masks)}
    if FORMATS[plan.format_name].one_file:
        entry["masks"] = to_json(masks)
    write_json(entry, plan.entry(source))


def _read_entry(path: Path) -> dict[str, Any] | None:
    """An entry, or None where there is none that can be used."""
    if not path.is_file():
        return None
    try:
        entry = load_json(path)
    except InputError:
        return None
    return entry if {"key", "name", "num_masks"} <= entry.keys() else None


def _done(plan: Plan, sources: list[PhotoSource]) -> Iterator[PhotoMasks]:
    for source in sources:
        entry = _read_entry(plan.entry(source))
        if entry is not None and "masks" in entry and entry["key"].endswith(plan.options_hash()):
            with naming(plan.entry(source)):
                yield of_json(entry["masks"])


def _output_name(source: PhotoSource) -> str:
    """The photo's name; with its number where two photos of the run share one."""
    return source.stem + Path(source.file_name).suffix


def _small(picture: np.ndarray, longest_px: int = 480) -> np.ndarray:
    return resize_image(picture, scaled_hw((picture.shape[0], picture.shape[1]), longest_px))
