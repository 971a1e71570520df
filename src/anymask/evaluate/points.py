"""Point to mask over many data sets: a mask from 1, 2, 3, 5, 9 clicks or a box (PAPER §7.1)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anymask.core import rle
from anymask.core.errors import InputError
from anymask.core.images import read_image
from anymask.core.masks import mask_boxes
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.data.readers import Photo, Problems
from anymask.evaluate.click_methods import Clicks, click_method, method_rounds
from anymask.evaluate.contract import Case, Curve, Plot, Table, Task
from anymask.evaluate.datasets import open_named
from anymask.evaluate.interactive import ClickRounds, candidate_ious, click_rounds, clicks_to_reach
from anymask.evaluate.metrics import iou_of_candidates
from anymask.evaluate.models import ModelChoice
from anymask.evaluate.subsample import Subsample, take
from anymask.predict.prompts import check_prompts
from anymask.predict.zoom import Zoom


@dataclass(frozen=True)
class PointProtocol:
    """Choices of point to mask. Source in brackets.

    clicks: after how many the IoU is reported (§7.1). first: "center" or "random" first click (D.1); later ones are
    where the mask is most wrong. feed_back: previous logits go in with the next click (as in training, §10.2).
    min_area_px: smaller masks are left out and counted (§7.2 for ratings: 24²; the dev data: 100). reach: IoU whose
    number of clicks is reported (NoC of interactive segmentation), capped at the last of `clicks`. boxes: also a tight
    box as the only prompt. max_masks: of a photo, evenly spread; 0 for all. subsample: images until about so many
    masks, where a set has more than `above` (D.1: 15k, 10k). seed: of random clicks and of sub-sampling.
    """

    clicks: tuple[int, ...] = (1, 2, 3, 5, 9)
    first: str = "center"
    feed_back: bool = True
    min_area_px: int = 100
    reach: tuple[float, ...] = (0.85, 0.90)
    boxes: bool = True
    max_masks: int = 0
    subsample: Subsample = field(default_factory=Subsample)
    seed: int = 0
    zoom: bool = False


@dataclass
class Points(Task):
    """Clicks every mask of every photo of `data`: paths in any layout, or `name:root` of a known set."""

    data: list[Path]
    method: str = "model"
    protocol: PointProtocol = field(default_factory=PointProtocol)
    model: ModelChoice = field(default_factory=ModelChoice)
    max_photos: int | None = None
    domains: dict[str, str] = field(default_factory=dict)
    name: str = "points"

    def cases(self) -> list[Case]:
        """A case for each photo with masks; broken photos, empty and small masks are counted in `problems`."""
        problems = Problems()
        sets: dict[str, list[Photo]] = {}
        for path in self.data:
            for photo in open_named(path, problems):
                sets.setdefault(photo.source, []).append(photo)
        self.problems[:] = [f"{p.file}: {p.kind}: {p.message}" for p in problems.found]
        found = []
        for source, photos in sorted(sets.items()):
            usable = []
            for photo in photos:
                areas = np.array([rle.area(r) for r in photo.rles])
                if not areas.size or not areas.any():
                    self.problems.append(f"{source}/{photo.name}: no mask" + " that is not empty" * bool(areas.size))
                elif not (areas >= self.protocol.min_area_px).any():
                    self.problems.append(f"{source}/{photo.name}: no mask of {self.protocol.min_area_px} px² or more")
                else:
                    usable.append(photo)
            usable = take(usable, [len(p.rles) for p in usable], self.protocol.subsample, self.protocol.seed)
            chosen = usable[: self.max_photos]
            found += [Case(f"{source}/{p.name}", source, p, effort=len(p.rles)) for p in chosen]
        return found

    def score(self, case: Case) -> dict[str, Any]:
        """IoU of each mask after each click and from its box."""
        photo: Photo = case.payload
        truth, left_out = self._truth(photo)
        image = photo_at_mask_size(photo)
        seed = self.protocol.seed + zlib.crc32(case.name.encode())  # each photo its own clicks, in any order
        embedding: Embedding | None = None
        if self.method == "model":
            segmenter = self.model.segmenter
            embedding = segmenter.encode([image])[0]
            zoom = Zoom(segmenter, image, embedding) if self.protocol.zoom else None
            rounds = click_rounds(
                segmenter,
                embedding,
                truth,
                max(self.protocol.clicks),
                self.protocol.first,
                seed,
                self.protocol.feed_back,
                zoom,
            )
            boxes = box_ious(segmenter, embedding, truth, zoom) if self.protocol.boxes else None
        else:
            method = click_method(self.method, image, photo.name)
            rounds = method_rounds(method, truth, max(self.protocol.clicks), self.protocol.first, seed)
            boxes = self._method_boxes(method, truth) if self.protocol.boxes else None
        return self._row(truth, rounds, boxes, left_out)

    def _row(self, truth: np.ndarray, rounds: ClickRounds, boxes: np.ndarray | None, left_out: int) -> dict[str, Any]:
        row = {
            "areas": [int(m.sum()) for m in truth],
            "oracle": rounds.oracle.round(6).tolist(),
            "selected": rounds.selected.round(6).tolist(),
            "left_out": left_out,
            "quality": float(rounds.selected[:, 0].mean()),
        }
        return row if boxes is None else {**row, "box": boxes.round(6).tolist()}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Per set, then the mean over sets with equal weight; IoU in percent."""
        sets = {}
        for source in sorted({row["source"] for row in rows}):
            sets[source] = self._of_set([row for row in rows if row["source"] == source])
        groups = {"mean": list(sets)}
        for domain in sorted({self.domains[s] for s in sets if s in self.domains}):
            groups[f"domain: {domain}"] = [s for s in sets if self.domains.get(s) == domain]
        means = {
            name: {k: float(np.mean([sets[s][k] for s in members])) for k in sets[members[0]] if k not in _COUNTS}
            | {k: sum(sets[s][k] for s in members) for k in _COUNTS}
            for name, members in groups.items()
        }
        reached = {f"{100 * target:g}": self._reached(rows, target) for target in self.protocol.reach}
        return {"sets": sets, "reached": reached, **means}

    def _reached(self, rows: list[dict[str, Any]], target: float) -> list[float]:
        """Percent of the masks that have had an IoU of `target` after 1 … K clicks, the mean over sets."""
        of_sets: dict[str, list[np.ndarray]] = {}
        for row in rows:
            of_sets.setdefault(row["source"], []).append(np.array(row["selected"]))
        shares = [np.maximum.accumulate(np.concatenate(s) >= target, axis=1).mean(axis=0) for s in of_sets.values()]
        return [float(share) for share in 100 * np.mean(shares, axis=0)]

    def _of_set(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        selected = np.concatenate([np.array(row["selected"]) for row in rows])
        numbers = {"oracle": 100 * float(np.mean([x for row in rows for x in row["oracle"]]))}
        numbers |= {f"clicks_{n}": 100 * float(selected[:, n - 1].mean()) for n in self.protocol.clicks}
        for target in self.protocol.reach:
            numbers[f"noc_{100 * target:g}"] = float(clicks_to_reach(selected, target).mean())
        if self.protocol.boxes:
            boxes = np.concatenate([np.array(row["box"]) for row in rows])
            numbers |= {"box_oracle": 100 * float(boxes[:, 0].mean()), "box": 100 * float(boxes[:, 1].mean())}
        return numbers | {"masks": len(selected), "photos": len(rows), "left_out": sum(r["left_out"] for r in rows)}

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """One row for each set, domain and the mean."""
        keys = [k for k in summary["mean"] if k not in ("photos", "left_out")]
        names = [k.replace("clicks_1", "1 click").replace("clicks_", "").replace("_", " ") for k in keys]
        rows = [(s, *(row[k] for k in keys)) for s, row in summary["sets"].items()]
        rows += [(s, *(row[k] for k in keys)) for s, row in summary.items() if s not in ("sets", "reached")]
        note = (
            f"{self.method}, {self.protocol.first} first click. mIoU in % after 1, 2 … clicks; oracle: best of the "
            "candidates after one click; noc: clicks until that IoU, at most "
            f"{max(self.protocol.clicks)}. {summary['mean']['left_out']:.0f} masks left out: empty or smaller than "
            f"{self.protocol.min_area_px} px². Published (23 sets): curves without numbers; SAM above RITM on 16 "
            "sets of 23 at one centre click, on all 23 with the oracle."
        )
        return [Table("Point to mask", ("set", *names), rows, note)]

    def plots(self, summary: dict[str, Any]) -> list[Plot]:
        """mIoU over clicks, and how many masks are good after so many clicks (whose mean is the NoC)."""
        if max(self.protocol.clicks) == 1:
            return []
        plots = [Plot("mIoU over clicks", "clicks", "mIoU (%)", click_curves(self.method, summary, self.protocol))]
        curves = [
            Curve(f"IoU {target} %, NoC {summary['mean'][f'noc_{target}']:.2f}", range(1, len(share) + 1), share)
            for target, share in summary["reached"].items()
        ]
        return plots + [Plot("Masks done over clicks", "clicks", "masks (%)", curves)] * bool(curves)

    def picture(self, case: Case, row: dict[str, Any]) -> np.ndarray:
        """The photo with the truth of its worst mask outlined and the first click dotted."""
        image = photo_at_mask_size(case.payload).copy()
        truth, _ = self._truth(case.payload)
        worst = truth[int(np.argmin([s[0] for s in row["selected"]]))]
        contours, _ = cv2.findContours(worst.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, (255, 0, 0), 2)
        if self.protocol.first == "center":
            from anymask.core.masks import center_click

            cv2.circle(image, center_click(worst), 5, (255, 255, 0), -1)
        return image

    def describe(self) -> dict[str, Any]:
        """Paths and weights."""
        known: dict[str, Any] = {"data": [str(path) for path in self.data], "max_photos": self.max_photos}
        return {**known, **self.model.describe()} if self.method == "model" else known

    def _truth(self, photo: Photo) -> tuple[np.ndarray, int]:
        """Masks (P, H, W) that count, and how many do not."""
        kept = [r for r in photo.rles if rle.area(r) >= max(1, self.protocol.min_area_px)]
        left_out = len(photo.rles) - len(kept)
        most = self.protocol.max_masks
        if most and len(kept) > most:
            kept = [kept[i] for i in np.linspace(0, len(kept) - 1, most).round().astype(int)]
        if not kept:
            raise InputError("no mask is large enough to count.")
        return rle.decode(kept), left_out

    def _method_boxes(self, method: Any, truth: np.ndarray) -> np.ndarray:
        none = np.zeros((0, 2)), np.zeros(0)
        result = []
        for mask, (x0, y0, x1, y1) in zip(truth, mask_boxes(truth).tolist()):
            ious = iou_of_candidates(method(Clicks(*none, (x0, y0, x1, y1)))[None], mask[None])[0]
            result.append((ious.max(), ious[0]))
        return np.array(result)


_COUNTS = ("masks", "photos", "left_out")


def click_curves(name: str, summary: dict[str, Any], protocol: PointProtocol) -> list[Curve]:
    """A method's mean over sets after each number of clicks, and with the best of the first candidates where better."""
    mean = summary["mean"]
    curves = [Curve(name, protocol.clicks, [mean[f"clicks_{n}"] for n in protocol.clicks])]
    if mean["oracle"] > mean["clicks_1"]:
        curves.append(Curve(f"{name}, oracle", [1], [mean["oracle"]], like=name))
    return curves


def photo_at_mask_size(photo: Photo) -> np.ndarray:
    """The photo (H, W, 3) uint8, scaled to its masks where it is stored at another size."""
    image = read_image(photo.encoded)
    return image if image.shape[:2] == photo.hw else cv2.resize(image, photo.hw[::-1], interpolation=cv2.INTER_AREA)


def box_ious(
    segmenter: Segmenter, embedding: Embedding, truth: np.ndarray, zoom: Zoom | None = None
) -> np.ndarray:
    """IoU (P, 2) from tight boxes of truth (P, H, W): best of the three candidates, and the selected one."""
    boxes = mask_boxes(truth).astype(float) + (0, 0, 1e-3, 1e-3)
    batch: PromptBatch = check_prompts(embedding.frame, (1, 1), box=boxes).batch
    ious, predicted = candidate_ious(segmenter, embedding, batch, truth, zoom)
    return np.stack([ious.max(axis=1), ious[np.arange(len(ious)), predicted.argmax(axis=1)]], axis=1)
