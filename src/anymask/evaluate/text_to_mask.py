"""Text to mask: does the first mask for a word lie on an object of that name? (PAPER §7.6: pictures, no numbers.)"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core import rle
from anymask.core.errors import InputError, OptionError
from anymask.core.masks import pairwise_iou
from anymask.data.readers import Photo, Problems
from anymask.evaluate.contract import Case, Table, Task
from anymask.evaluate.datasets import open_named
from anymask.evaluate.models import ModelChoice
from anymask.evaluate.points import photo_at_mask_size
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.options import preset_for
from anymask.predict.render import overlay
from anymask.text.choice import TextChoice

CANDIDATES = ("automatic", "truth")


@dataclass(frozen=True)
class TextProtocol:
    """Choices; none of them is the paper's, which gives no numbers for text.

    candidates: "automatic" masks of the model (a text prompt in use), or the "truth" masks, which leaves only the
    choice among them. preset, points_per_side: of automatic masks; no preset: the one that suits the model. hit_iou: a
    mask with this IoU to an object is that object (as COCO's loosest). min_area_px: smaller objects are left out.
    """

    candidates: str = "automatic"
    preset: str = ""
    points_per_side: int = 16
    hit_iou: float = 0.5
    min_area_px: int = 100


@dataclass
class TextToMask(Task):
    """Asks each photo for every different word among its masks' labels; unlabelled masks are candidates, not questions.

    text: "offline", or a folder with a CLIP.
    """

    data: list[Path]
    text: TextChoice = field(default_factory=TextChoice)
    protocol: TextProtocol = field(default_factory=TextProtocol)
    model: ModelChoice = field(default_factory=ModelChoice)
    max_photos: int | None = None
    method: str = "ranking"
    name: str = "text"

    def cases(self) -> list[Case]:
        """A case for each photo with a label; the others are counted in `problems`."""
        if self.protocol.candidates not in CANDIDATES:
            raise OptionError(f"candidates is {' or '.join(CANDIDATES)}, got {self.protocol.candidates!r}.")
        problems = Problems()
        photos = [photo for path in self.data for photo in open_named(path, problems)]
        labelled = [photo for photo in photos if _words(photo, self.protocol.min_area_px)]
        self.problems[:] = [f"{p.file}: {p.kind}: {p.message}" for p in problems.found]
        if len(labelled) < len(photos):
            self.problems.append(f"{len(photos) - len(labelled)} of {len(photos)} photos have no labelled mask")
        taken: dict[str, int] = {}
        found = []
        for photo in labelled:
            taken[photo.source] = taken.get(photo.source, 0) + 1
            if self.max_photos is None or taken[photo.source] <= self.max_photos:
                found.append(Case(f"{photo.source}/{photo.name}", photo.source, photo))
        return found

    def score(self, case: Case) -> dict[str, Any]:
        """For every word: the IoU of the first mask, of the baselines, and of the best candidate."""
        photo: Photo = case.payload
        words = _words(photo, self.protocol.min_area_px)
        masks, confidence = self._candidates(photo)
        if not len(masks):
            raise InputError("no candidate mask was found.")
        truth = rle.decode(photo.rles)
        ious = pairwise_iou(masks, truth)
        ranks = self.text.embedder.similarities(photo_at_mask_size(photo), masks, list(words))
        largest = int(masks.sum(axis=(1, 2)).argmax())
        answers = {}
        for word, objects, similarity in zip(words, words.values(), ranks):
            best = ious[:, objects].max(axis=1)
            first = int(similarity.argmax())
            answers[word] = {
                "first": round(float(best[first]), 6),
                "largest": round(float(best[largest]), 6),
                "most_confident": round(float(best[int(confidence.argmax())]), 6),
                "best": round(float(best.max()), 6),
                "similarity": round(float(similarity[first]), 4),
            }
        return {"words": answers, "quality": float(np.mean([a["first"] for a in answers.values()]))}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Hit rates in percent over words of photos, for each set and for all; `ratio` to the better baseline.

        several: over the photos with labels of two names or more; where they are all one name, the largest mask
        mostly has it.
        """
        groups = {source: [r for r in rows if r["source"] == source] for source in sorted({r["source"] for r in rows})}
        found = {"sets": {s: self._rates(of) for s, of in groups.items()}, "all": self._rates(rows)}
        several = [row for row in rows if len(row["words"]) > 1]
        return {**found, "several": self._rates(several)} if several else found

    def _rates(self, rows: list[dict[str, Any]]) -> dict[str, float | None]:
        answers = [answer for row in rows for answer in row["words"].values()]
        rate = {
            key: 100 * float(np.mean([answer[key] >= self.protocol.hit_iou for answer in answers]))
            for key in ("first", "largest", "most_confident", "best")
        }
        baseline = max(rate["largest"], rate["most_confident"])
        iou = 100 * float(np.mean([answer["first"] for answer in answers]))
        ratio = rate["first"] / baseline if baseline else None
        return {**rate, "ratio": ratio, "miou": iou, "words": len(answers), "photos": len(rows)}

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """Hit rates beside the baselines."""
        keys = ("first", "largest", "most_confident", "best", "ratio", "miou", "words", "photos")
        rows = [(name, *(numbers[k] for k in keys)) for name, numbers in summary["sets"].items()]
        for key, name in (("all", "all"), ("several", "photos of 2 names or more")):
            if key in summary:
                rows.append((name, *(summary[key][k] for k in keys)))
        note = (
            f"Text by {self.text.name}; {self.protocol.candidates} masks. Hits in % (IoU ≥ {self.protocol.hit_iou:g} "
            "with an object of that name): of the first mask for the word, of the largest and of the most confident "
            "mask whatever the word, and of the best there is. ratio: first to the better of those two. mIoU: of the "
            "first mask. Published: pictures, no numbers."
        )
        columns = ("set", "first", "largest", "most confident", "best possible", "ratio", "mIoU", "words", "photos")
        return [Table("Text to mask", columns, rows, note)]

    def picture(self, case: Case, row: dict[str, Any]) -> np.ndarray:
        """The photo with the first mask of the word that did worst."""
        photo: Photo = case.payload
        word = min(row["words"], key=lambda w: row["words"][w]["first"])
        masks, _ = self._candidates(photo)
        image = photo_at_mask_size(photo)
        first = int(self.text.embedder.similarities(image, masks, [word])[0].argmax())
        return overlay(image, masks[first : first + 1], titles=[word])

    def describe(self) -> dict[str, Any]:
        """Paths, text model and weights."""
        return {"data": [str(path) for path in self.data], "text": self.text.name, "max_photos": self.max_photos,
                **self.model.describe()}  # fmt: skip

    def _candidates(self, photo: Photo) -> tuple[np.ndarray, np.ndarray]:
        """Masks (M, H, W) and how sure the model is of each (M,)."""
        if self.protocol.candidates == "truth":
            masks = rle.decode([r for r in photo.rles if rle.area(r) >= self.protocol.min_area_px])
            return masks, masks.sum(axis=(1, 2)).astype(float)
        segmenter = self.model.segmenter
        preset = self.protocol.preset or preset_for(segmenter)
        generator = SamAutomaticMaskGenerator(
            segmenter, points_per_side=self.protocol.points_per_side, preset=preset
        )
        records = generator.generate(photo_at_mask_size(photo))
        masks = np.array([r["segmentation"] for r in records], bool).reshape(-1, *photo.hw)
        return masks, np.array([r["predicted_iou"] for r in records])


def _words(photo: Photo, min_area_px: int) -> dict[str, list[int]]:
    """Labels as words, with the places of their masks."""
    words: dict[str, list[int]] = {}
    for i, (label, mask) in enumerate(zip(photo.labels, photo.rles)):
        if label and rle.area(mask) >= min_area_px:
            words.setdefault(str(label).replace("_", " "), []).append(i)
    return words
