"""Edge detection on BSDS500's terms: any edge map against the boundaries that several people drew (PAPER §7.3)."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anymask.core.errors import InputError
from anymask.core.images import read_image
from anymask.data.readers import open_dataset
from anymask.evaluate.boundaries import boundary_of_labels, thin
from anymask.evaluate.contract import Case, Curve, Plot, Table, Task
from anymask.evaluate.edge_methods import MaskEdges, edge_method, read_edge_map
from anymask.evaluate.edge_scores import EdgeProtocol, count_edges, edge_scores
from anymask.evaluate.models import ModelChoice

PUBLISHED = (  # BSDS500 test, ODS, OIS, AP, R50: PAPER §7.3
    ("HED (supervised), 2015", 0.788, 0.808, 0.840, 0.923),
    ("EDTER (supervised), 2022", 0.840, 0.858, 0.896, 0.930),
    ("Sobel, 1968", 0.539, None, None, None),
    ("Canny, 1986", 0.600, 0.640, 0.580, None),
    ("Felzenszwalb-Huttenlocher, 2004", 0.610, 0.640, 0.560, None),
    ("SAM ViT-H, 2023", 0.768, 0.786, 0.794, 0.928),
)
_NAME = re.compile(r"(?P<image>.+)\.(?P<annotator>\d+)\.png")


@dataclass(frozen=True)
class EdgeRun(EdgeProtocol):
    """Choices of an edge evaluation: the benchmark's, and those of the masks' edges (only with the model)."""

    masks: MaskEdges = field(default_factory=MaskEdges)


@dataclass
class Edges(Task):
    """Scores a folder of edge maps (`folder:DIR`), or a method on photos.

    truth: tar or folder of label maps `<photo>.<annotator>.png`, or a BSDS500 folder. data: the photos, which a folder
    of maps does not need; in any layout that `open_dataset` reads.
    """

    truth: Path
    method: str
    data: Path | None = None
    protocol: EdgeRun = field(default_factory=EdgeRun)
    model: ModelChoice = field(default_factory=ModelChoice)
    max_photos: int | None = None
    name: str = "edges"

    def cases(self) -> list[Case]:
        """One for each photo with label maps and an edge map or photo."""
        truths = read_label_maps(self.truth)
        inputs = self._inputs()
        self.problems.clear()
        found = []
        for image in sorted(truths):
            match = next((inputs[n] for n in _names(image) if n in inputs), None)
            if match is None:
                self.problems.append(f"{image}: no {'edge map' if self._folder else 'photo'} of that name")
            else:
                found.append(Case(image, "bsds", (match, truths[image])))
        known = {n for image in truths for n in _names(image)}
        self.problems.extend(f"{n}: nobody's label map has this name" for n in sorted(set(inputs) - known))
        if not found:
            where = self._folder or self.data
            some = ", ".join(sorted(truths)[:3])
            raise InputError(f"no map or photo in {where} is named like the label maps in {self.truth} ({some} …).")
        return found[: self.max_photos]

    def score(self, case: Case) -> dict[str, Any]:
        """Counts at every threshold, and the photo's own best F as `quality`."""
        truths = [thin(boundary_of_labels(labels)) for labels in self._labels(case)]
        counts = count_edges(self._edges(case, truths[0].shape), truths, self.protocol)
        return {"counts": counts, "quality": edge_scores([counts], self.protocol.thresholds)["ods"]}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """`ods ois ap r50`, the threshold, and the curve."""
        return edge_scores([row["counts"] for row in rows], self.protocol.thresholds)

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """Ours below the published rows."""
        ours = tuple(summary[key] for key in ("ods", "ois", "ap", "r50"))
        columns = ("method", "ODS", "OIS", "AP", "R50")
        note = f"This run: {summary['images']} photos, threshold {summary['ods_threshold']:.3f}. "
        note += "Published: BSDS500 test, 200 photos."
        return [Table("Edges", columns, [*PUBLISHED, (f"{self.method} (this run)", *ours)], note, digits=3)]

    def plots(self, summary: dict[str, Any]) -> list[Plot]:
        """Precision over recall."""
        curve = Curve(self.method, summary["recall"], summary["precision"])
        return [Plot("Precision and recall", "recall", "precision", [curve])]

    def picture(self, case: Case, row: dict[str, Any]) -> np.ndarray:
        """Annotated boundaries (the darker, the more people) beside the edge map."""
        labels = self._labels(case)
        drawn = np.mean([boundary_of_labels(x) for x in labels], axis=0)
        pair = np.concatenate([drawn, self._edges(case, labels[0].shape)], axis=1)
        gray = (255 * (1 - np.clip(pair, 0, 1))).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)

    def describe(self) -> dict[str, Any]:
        """Paths, and the weights where they matter."""
        known: dict[str, Any] = {"truth": str(self.truth), "photos": str(self.data) if self.data else None}
        return {**known, **self.model.describe()} if self.method == "model" else known

    @property
    def _folder(self) -> Path | None:
        return Path(self.method.removeprefix("folder:")) if self.method.startswith("folder:") else None

    def _inputs(self) -> dict[str, Any]:
        """Edge map paths or photos by name."""
        if self._folder is not None:
            if not self._folder.is_dir():
                raise InputError(f"{self._folder} is not a folder; expected PNG edge maps named like the photos.")
            return {path.stem: path for path in sorted(self._folder.glob("*.png"))}
        if self.data is None:
            raise InputError(f"--method {self.method} needs the photos: --data PHOTOS.tar, or --method folder:MAPS.")
        return {photo.name: photo.encoded for photo in open_dataset(self.data)}

    def _labels(self, case: Case) -> list[np.ndarray]:
        labels = [decode_label_map(data) if isinstance(data, bytes) else data for data in case.payload[1]]
        if len({x.shape for x in labels}) > 1:
            raise InputError(f"its annotators' label maps differ in size: {sorted({x.shape for x in labels})}.")
        return labels

    def _edges(self, case: Case, hw: tuple[int, ...]) -> np.ndarray:
        source = case.payload[0]
        if isinstance(source, Path):
            return read_edge_map(source)
        image = read_image(source)
        if not hasattr(self, "_method"):
            self._method = edge_method(self.method, lambda: self.model.segmenter, self.protocol.masks)
        edges = self._method(image)
        if edges.shape != hw:  # photos stored at another size than they were annotated at
            edges = cv2.resize(edges, hw[::-1], interpolation=cv2.INTER_LINEAR)
        return edges

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_method"}


def read_label_maps(path: Path) -> dict[str, list[Any]]:
    """Every annotator's label map of each photo: PNG bytes, from a tar or folder of `<photo>.<annotator>.png`, or
    arrays (H, W) from a BSDS500 folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is not there; expected a tar or folder of <photo>.<annotator>.png, or BSDS500.")
    maps: dict[str, dict[int, Any]] = {}
    for name, data in _files(path):
        match = _NAME.fullmatch(Path(name).name)
        if match:
            maps.setdefault(match["image"], {})[int(match["annotator"])] = data
    if not maps and path.is_dir():
        return _bsds_label_maps(path)
    if not maps:
        raise InputError(f"{path} holds no label map; expected files named <photo>.<annotator>.png.")
    return {image: [by_person[k] for k in sorted(by_person)] for image, by_person in maps.items()}


def decode_label_map(data: bytes) -> np.ndarray:
    """PNG bytes of 8 or 16 bits to labels (H, W) int32."""
    try:
        labels = np.asarray(Image.open(io.BytesIO(data)))
    except OSError as error:
        raise InputError(f"a label map cannot be read: {error}.") from error
    if labels.ndim != 2:
        raise InputError(f"a label map has one channel, got shape {labels.shape}.")
    return labels.astype(np.int32)


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from ((file.name, file.read_bytes()) for file in sorted(path.glob("*.png")))
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member) if member.isfile() else None
                if handle is not None:
                    yield member.name, handle.read()
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is not a complete tar: {error}. Fetch it again.") from error


def _bsds_label_maps(path: Path) -> dict[str, list[Any]]:
    from anymask.data.readers.bsds import label_maps

    files = sorted(path.rglob("*.mat"))
    if not files:
        raise InputError(f"{path} holds neither <photo>.<annotator>.png nor BSDS500's *.mat.")
    from scipy.io import loadmat

    return {file.stem: label_maps(file, loadmat) for file in files}


def _names(image: str) -> list[str]:
    """Under which names a photo is looked for: its own, and without or with the set's prefix."""
    return [image, image.removeprefix("bsds_"), f"bsds_{image}"]
