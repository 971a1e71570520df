"""How the owners of data sets lay out photos and masks: six forms described by patterns instead of code.

A pattern is a path under the set's root with `*` and `?` for what varies. A template names the file that belongs to a
photo: `{0}`, `{1}` … stand for what the pattern's stars matched, in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anymask.core.errors import MissingExtraError
from anymask.core.rle import RLE, encode_one
from anymask.data.readers import DataError, Photo, Problems, read_coco
from anymask.data.readers.coco import photos_of_coco
from anymask.data.readers.photo import check_size, checked_hw, complain, keep_readable, read_bytes, rle_of_polygons
from anymask.data.readers.pictures import read_label_map


class Layout(Protocol):
    """One form. files: patterns under the root that must find something, for telling what is missing."""

    @property
    def files(self) -> tuple[str, ...]: ...

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """Photos with their masks."""
        ...


@dataclass(frozen=True)
class LabelMaps:
    """A photo and a picture (or HDF5) of labels beside it: every value is a mask.

    background: values that are none. lowest: values under it are none either. only: a regular expression that the
    photo's path must match.
    """

    photos: str
    labels: str
    background: tuple[int, ...] = (0,)
    lowest: int = 0
    only: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return self.photos, _any(self.labels)

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """One photo for each picture that matches."""

        def photo(file: Path, parts: tuple[str, ...]) -> Photo:
            truth = root / self.labels.format(*parts)
            labels = _hdf5_labels(truth) if truth.suffix == ".hdf5" else read_label_map(truth)
            values = [int(v) for v in np.unique(labels) if v >= self.lowest and int(v) not in self.background]
            return _photo(file, root, source, truth, [labels == value for value in values])

        name_orphans(root, self.photos, self.labels, problems)
        return keep_readable((partial(photo, *match) for match in matches(root, self.photos, self.only)), problems)


@dataclass(frozen=True)
class MaskFiles:
    """A photo and a folder of black-and-white pictures, one for each mask. above: gray values that are the mask."""

    photos: str
    masks: str
    above: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        return self.photos, _any(self.masks)

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """One photo for each picture that matches; without a mask it is a problem."""

        def photo(file: Path, parts: tuple[str, ...]) -> Photo:
            found = sorted(root.glob(self.masks.format(*parts)))
            if not found:
                raise DataError("missing file", root / self.masks.format(*parts), "no mask of this photo is there.")
            return _photo(file, root, source, found[0], [read_label_map(mask) > self.above for mask in found])

        name_orphans(root, self.photos, self.masks, problems)
        return keep_readable((partial(photo, *match) for match in matches(root, self.photos)), problems)


@dataclass(frozen=True)
class Coco:
    """COCO files, each with the folder of its photos. last: only so many last characters of a file name are its name
    (LVIS v0.5 writes COCO 2014's names, the files are COCO 2017's).
    """

    parts: tuple[tuple[str, str], ...]
    last: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for name, photos in self.parts for file in (name, f"{photos}/*"))

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """Photos of all parts."""
        for name, folder in self.parts:
            if self.last:
                content = read_json(root / name)
                for record in content["images"]:
                    record["file_name"] = record["file_name"][-self.last :]
                found = photos_of_coco(content, root / name, root / folder, problems=problems)
            else:
                found = read_coco(root / name, root / folder, problems=problems)
            yield from (Photo(p.name, source, p.encoded, p.hw, p.rles, p.labels) for p in found)


@dataclass(frozen=True)
class VideoCoco:
    """YouTube-VIS's form of COCO (OVIS): a mask or nothing for each frame. stride: every so-manieth frame."""

    annotations: str
    photos: str
    stride: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        return self.annotations, f"{self.photos}/*/*"

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """Frames with at least one mask."""
        content = read_json(root / self.annotations)
        images, annotations = [], []
        videos = {video["id"]: video["file_names"] for video in content["videos"]}
        for video, names in videos.items():
            images += [{"id": (video, i), "file_name": name} for i, name in enumerate(names) if i % self.stride == 0]
        for record in content["annotations"]:
            for i, mask in enumerate(record["segmentations"]):
                if mask is not None and i % self.stride == 0:
                    image = (record["video_id"], i)
                    annotations.append({"id": record["id"], "image_id": image, "segmentation": mask})
        shown = {annotation["image_id"] for annotation in annotations}
        frames = {"images": [image for image in images if image["id"] in shown], "annotations": annotations}
        for p in photos_of_coco(frames, root / self.annotations, root / self.photos, problems=problems):
            yield Photo(p.name, source, p.encoded, p.hw, p.rles, p.labels)


@dataclass(frozen=True)
class Polygons:
    """JSON files with polygons in another form. annotations: pattern of the files. parse: of one file's content, pairs
    of a photo's path and its masks, each a list of polygons [x, y, x, y, …]; `{0}` … in a path as in a template.
    """

    annotations: str
    photos: str
    parse: Callable[[Any], Iterator[tuple[str, list[list[list[float]]]]]]

    @property
    def files(self) -> tuple[str, ...]:
        return self.annotations, _any(self.photos.replace("{name}", "*"))

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """Photos with at least one polygon; a polygon that is none is a problem of its own."""

        def photo(file: Path, truth: Path, masks: list[list[list[float]]]) -> Photo:
            encoded = read_bytes(file)
            hw, rles = checked_hw(file, encoded), []
            for i, polygons in enumerate(masks):
                try:
                    rles.append(rle_of_polygons(polygons, hw))
                except OverflowError as error:
                    complain(problems, "out of range", truth, f"mask {i} of {file.name}: {error}.")
                except (ValueError, TypeError) as error:
                    complain(problems, "broken mask", truth, f"mask {i} of {file.name}: {error}.")
            return Photo(str(file.relative_to(root)), source, encoded, hw, rles, [None] * len(rles))

        def jobs() -> Iterator[Callable[[], Photo]]:
            for truth, parts in matches(root, self.annotations):
                try:
                    entries = list(self.parse(read_json(truth)))
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    complain(problems, "broken record", truth, f"not in the owners' form: {error!r}.")
                    continue
                for name, masks in entries:
                    file = root / self.photos.format(*parts, name=name)
                    if "*" in self.photos:  # a folder in between that the annotations do not name
                        file = next(root.glob(self.photos.format(*parts, name=Path(name).name)), file)
                    if not file.resolve().is_relative_to(root.resolve()):
                        complain(problems, "out of range", truth, f"names a photo outside the set: {name}.")
                    elif masks:
                        yield partial(photo, file, truth, masks)

        return keep_readable(jobs(), problems)


def via(content: Any) -> Iterator[tuple[str, list[list[list[float]]]]]:
    """VGG Image Annotator (NDD20): entries with `filename` and `regions`, a list or a dict."""
    for entry in content.values():
        regions = entry["regions"]
        shapes = [r["shape_attributes"] for r in (regions.values() if isinstance(regions, dict) else regions)]
        yield (
            entry["filename"],
            [[[float(v) for xy in zip(s["all_points_x"], s["all_points_y"]) for v in xy]] for s in shapes],
        )


def visor(content: Any) -> Iterator[tuple[str, list[list[list[float]]]]]:
    """VISOR: frames with `segments`, lists of points."""
    for frame in content["video_annotations"]:
        masks = [
            [[float(v) for xy in polygon for v in xy] for polygon in a["segments"] if len(polygon) > 2]
            for a in frame["annotations"]
        ]
        yield frame["image"]["name"], [mask for mask in masks if mask]


def woodscape(content: Any) -> Iterator[tuple[str, list[list[list[float]]]]]:
    """WoodScape: one photo a file, polygons of points or flat."""
    for name, entry in content.items():
        masks = []
        for a in entry["annotation"]:
            polygon = np.asarray(a["segmentation"], float).reshape(-1, 2)
            masks.append([polygon.ravel().tolist()])
        yield Path(name).stem, masks


def matches(root: Path, pattern: str, only: str = "") -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Files under root that fit a pattern, in order, with what each star stood for."""
    expression = re.compile("".join(_REGEX.get(c, re.escape(c)) for c in pattern))
    for file in sorted(root.glob(pattern)):
        path = file.relative_to(root).as_posix()
        match = expression.fullmatch(path)
        if match and (not only or re.search(only, path)):
            yield file, match.groups()


def name_orphans(root: Path, photos: str, masks: str, problems: Problems | None) -> None:
    """Count mask files that belong to no photo. photos: a pattern. masks: the template of a photo's."""
    taken = {mask for _, parts in matches(root, photos) for mask in root.glob(masks.format(*parts))}
    for mask in sorted(set(root.glob(_any(masks))) - taken):
        complain(problems, "missing file", mask, "the photo of this mask is not there.")


_REGEX = {"*": "([^/]*)", "?": "[^/]"}


def _any(template: str) -> str:
    """A template as a pattern."""
    return re.sub(r"\{\d+\}", "*", template)


def _photo(file: Path, root: Path, source: str, truth: Path, masks: list[np.ndarray]) -> Photo:
    encoded = read_bytes(file)
    hw = checked_hw(file, encoded)
    for mask in masks:
        check_size(truth, hw, (mask.shape[0], mask.shape[1]))
    rles: list[RLE] = [encode_one(mask) for mask in masks]
    return Photo(str(file.relative_to(root)), source, encoded, hw, rles, [None] * len(rles))


def read_json(path: Path) -> Any:
    """The content of a JSON file; DataError where it is not there or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError("missing file", path, "the annotations are not there.") from None
    except (ValueError, RecursionError) as error:
        raise DataError("broken record", path, f"not valid JSON: {error}. Fetch it again.") from error


def _hdf5_labels(path: Path) -> np.ndarray:
    """Labels (H, W) of Hypersim's HDF5: its one array, called `dataset`."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("HDF5 files are read with h5py: pip install 'anymask[evaluate]'") from error
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["dataset"], np.int32)
    except FileNotFoundError:
        raise DataError("missing file", path, "the labels of this photo are not there.") from None
    except (OSError, KeyError) as error:
        raise DataError("broken record", path, f"no HDF5 with an array 'dataset': {error}.") from error
