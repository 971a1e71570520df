"""Are some people segmented worse than others? Mean IoU by group with confidence intervals (PAPER §6, app. C).

docs/guide/fairness.md says what these numbers cannot show.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core import rle
from anymask.core.errors import InputError, OptionError
from anymask.data.readers import Photo, Problems
from anymask.evaluate.contract import Case, Table, Task
from anymask.evaluate.datasets import open_named
from anymask.evaluate.interactive import click_rounds
from anymask.evaluate.models import ModelChoice
from anymask.evaluate.points import photo_at_mask_size

PUBLISHED = {  # mean IoU ± half of the 95 % interval at 1 and 3 points
    "people": {
        "feminine": ("54.4 ± 1.7", "90.4 ± 0.6"),
        "masculine": ("55.7 ± 1.7", "90.1 ± 0.6"),
        "older": ("62.9 ± 6.7", "92.6 ± 1.3"),
        "middle": ("54.5 ± 1.3", "90.2 ± 0.5"),
        "young": ("54.2 ± 2.2", "91.2 ± 0.7"),
        "1": ("52.9 ± 2.2", "91.0 ± 0.9"),
        "2": ("51.5 ± 1.4", "91.1 ± 0.5"),
        "3": ("52.2 ± 1.9", "91.4 ± 0.7"),
        "4": ("51.5 ± 2.7", "91.7 ± 1.0"),
        "5": ("52.4 ± 4.2", "92.5 ± 1.4"),
        "6": ("56.7 ± 6.3", "91.2 ± 2.4"),
    },
    "clothing": {
        "feminine": ("76.3 ± 1.1", "90.7 ± 0.5"),
        "masculine": ("81.0 ± 1.2", "92.3 ± 0.4"),
        "older": ("81.9 ± 3.8", "92.8 ± 1.6"),
        "middle": ("78.2 ± 0.8", "91.3 ± 0.3"),
        "young": ("77.3 ± 2.7", "91.5 ± 0.9"),
    },
}


@dataclass(frozen=True)
class FairnessProtocol:
    """Choices. clicks: 1 and 3, first: "random" (§6). The intervals are a bootstrap over masks, `confidence` of
    `num_resamples` (§10.2: the paper does not say how it made its own). published: which of the paper's tables stands
    beside, "people" or "clothing".
    """

    clicks: tuple[int, ...] = (1, 3)
    first: str = "random"
    confidence: float = 0.95
    num_resamples: int = 10_000
    published: str = "people"
    seed: int = 0


@dataclass
class Fairness(Task):
    """attributes: a CSV with columns `photo` and `mask` (its place among the photo's masks, from 0), and one column
    for each attribute, such as `gender_presentation`; an empty cell is "not known". data: the photos with masks.
    """

    data: list[Path]
    attributes: Path
    protocol: FairnessProtocol = field(default_factory=FairnessProtocol)
    model: ModelChoice = field(default_factory=ModelChoice)
    method: str = "model"
    name: str = "fairness"

    def cases(self) -> list[Case]:
        """A case for each photo that the CSV names; rows that fit nothing are named."""
        if self.protocol.published not in PUBLISHED:
            raise OptionError(f"published is {' or '.join(PUBLISHED)}, got {self.protocol.published!r}.")
        _, rows = read_attributes(self.attributes)
        problems = Problems()
        photos: dict[str, Photo] = {}
        for path in self.data:
            photos |= {photo.name: photo for photo in open_named(path, problems)}
        self.problems[:] = [f"{p.file}: {p.kind}: {p.message}" for p in problems.found]
        chosen: dict[str, dict[int, dict[str, str]]] = {}
        for line, row in rows:
            photo, where = photos.get(row["photo"]), f"{self.attributes.name} line {line}"
            if photo is None:
                self.problems.append(f"{where}: there is no photo {row['photo']!r}")
            elif not row["mask"].isdigit() or int(row["mask"]) >= len(photo.rles):
                self.problems.append(
                    f"{where}: {row['photo']} has masks 0 … {len(photo.rles) - 1}, got {row['mask']!r}"
                )
            elif not rle.area(photo.rles[int(row["mask"])]):
                self.problems.append(f"{where}: mask {row['mask']} of {row['photo']} is empty")
            elif int(row["mask"]) in chosen.setdefault(photo.name, {}):
                self.problems.append(f"{where}: mask {row['mask']} of {row['photo']} is listed twice")
            else:
                groups = {k: v for k, v in row.items() if k not in ("photo", "mask") and v}
                chosen[photo.name][int(row["mask"])] = groups
        return [Case(name, photos[name].source, (photos[name], masks)) for name, masks in chosen.items() if masks]

    def score(self, case: Case) -> dict[str, Any]:
        """Groups and IoU of each mask."""
        photo: Photo = case.payload[0]
        masks: dict[int, dict[str, str]] = case.payload[1]
        truth = rle.decode([photo.rles[i] for i in masks])
        segmenter = self.model.segmenter
        embedding = segmenter.encode([photo_at_mask_size(photo)])[0]
        seed = self.protocol.seed + zlib.crc32(case.name.encode())
        rounds = click_rounds(segmenter, embedding, truth, max(self.protocol.clicks), self.protocol.first, seed)
        picked = rounds.selected[:, [n - 1 for n in self.protocol.clicks]].round(6).tolist()
        return {"masks": [{"groups": g, "iou": iou} for g, iou in zip(masks.values(), picked)]}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """For each attribute and group: number of masks, mean IoU in percent with its interval after 1, 3 … clicks,
        and `disjoint`: pairs of groups whose intervals do not meet.
        """
        masks = [mask for row in rows for mask in row["masks"]]
        attributes: dict[str, Any] = {}
        for attribute in sorted({key for mask in masks for key in mask["groups"]}):
            groups: dict[str, Any] = {}
            for group in sorted({m["groups"][attribute] for m in masks if attribute in m["groups"]}):
                iou = 100 * np.array([m["iou"] for m in masks if m["groups"].get(attribute) == group])
                numbers = {}
                for i, n in enumerate(self.protocol.clicks):
                    low, high = bootstrap(
                        iou[:, i], self.protocol.confidence, self.protocol.num_resamples, self.protocol.seed
                    )
                    numbers[f"clicks_{n}"] = {"mean": float(iou[:, i].mean()), "low": low, "high": high}
                groups[group] = {"masks": len(iou), **numbers}
            known = sum(group["masks"] for group in groups.values())
            disjoint = {f"clicks_{n}": disjoint_pairs(groups, f"clicks_{n}") for n in self.protocol.clicks}
            attributes[attribute] = {"groups": groups, "unknown": len(masks) - known, "disjoint": disjoint}
        return {"attributes": attributes, "masks": len(masks)}

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """One for each attribute, with the paper's numbers where it has a group of that name."""
        clicks = self.protocol.clicks
        tables = []
        for attribute, found in summary["attributes"].items():
            rows: list[tuple[Any, ...]] = []
            for group, numbers in found["groups"].items():
                cells = []
                for n in clicks:
                    value = numbers[f"clicks_{n}"]
                    cells.append(f"{value['mean']:.1f} [{value['low']:.1f}, {value['high']:.1f}]")
                paper = PUBLISHED[self.protocol.published].get(group.lower(), (None, None))
                rows.append((group, numbers["masks"], *cells, *paper))
            pairs = [f"{a} / {b} at {k.removeprefix('clicks_')}" for k, v in found["disjoint"].items() for a, b in v]
            percent = f"{100 * self.protocol.confidence:g}"
            note = f"mIoU in %, {percent} % bootstrap intervals over masks, {self.protocol.first} first point. "
            note += f"Intervals that do not meet: {', '.join(pairs) or 'none'}. Not known: {found['unknown']} masks. "
            note += f"Published: SAM ViT-H, {self.protocol.published}, on other photos."
            points = tuple(f"{n} point{'s' * (n > 1)}" for n in clicks)
            columns = (attribute, "masks", *points, "published, 1", "published, 3")
            tables.append(Table(f"Groups by {attribute}", columns, rows, note))
        return tables

    def describe(self) -> dict[str, Any]:
        """Paths and weights."""
        return {"data": [str(p) for p in self.data], "attributes": str(self.attributes), **self.model.describe()}


def read_attributes(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Attribute names, and line number and cells of each row of the CSV."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}.") from error
    attributes = [name for name in names if name not in ("photo", "mask")]
    if not {"photo", "mask"} <= set(names) or not attributes:
        raise InputError(
            f"{path} needs columns photo, mask and one or more attributes, got {', '.join(names) or 'none'}."
        )
    return attributes, rows


def bootstrap(values: np.ndarray, confidence: float, num_resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of values (N,): resampled with replacement, N at a time."""
    if not 0 < confidence < 1:
        raise OptionError(f"confidence is between 0 and 1, got {confidence}.")
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // max(1, len(values)))  # a few at a time: all of them would not fit in memory
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(block, num_resamples - start), len(values)))].mean(axis=1)
            for start in range(0, num_resamples, block)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def disjoint_pairs(groups: dict[str, Any], key: str) -> list[tuple[str, str]]:
    """Pairs of groups whose intervals do not meet, the lower one first."""
    names: Sequence[str] = sorted(groups, key=lambda g: groups[g][key]["mean"])
    return [
        (a, b) for i, a in enumerate(names) for b in names[i + 1 :] if groups[a][key]["high"] < groups[b][key]["low"]
    ]
