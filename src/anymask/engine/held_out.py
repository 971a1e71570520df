"""How good a model is on photos that no stage trains on: one click, a few, and how many to a good mask (PAPER §7.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.core.files import write_aside
from anymask.core.images import read_image
from anymask.data.readers import Photo, open_dataset
from anymask.evaluate.interactive import click_rounds, clicks_to_reach
from anymask.evaluate.point_to_mask import Protocol, chosen_masks
from anymask.predict.segmenter import TorchSegmenter

_NAMES = ("selected", "oracle", "curve", "clicks", "reached")


@dataclass(frozen=True)
class HeldOutProtocol:
    """max_photos: of each set. max_masks: of each photo, evenly spread. clicks: how many at most. target_iou: of a good
    mask. min_area_px: smaller masks are left out.
    """

    max_photos: int = 10
    max_masks: int = 4
    clicks: int = 8
    target_iou: float = 0.85
    min_area_px: int = 100


@dataclass(frozen=True)
class HeldOutScore:
    """Means over sets with equal weight. selected, oracle: mIoU in percent after one centre click, of the mask with the
    highest predicted IoU and of the best of three. curve: of the former, the mean after 1, 2, 4, 8, … clicks; versions
    are compared by it. clicks: to the target, `protocol.clicks` where it is never reached; reached: share of masks that
    reach it.
    """

    selected: float
    oracle: float
    curve: float
    clicks: float
    reached: float
    num_masks: int
    sets: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)


@dataclass(frozen=True)
class HeldOut:
    """Photos with masks, and how they are judged. key: tells this data and protocol from others."""

    photos: list[Photo]
    protocol: HeldOutProtocol
    key: str

    @classmethod
    def read(cls, places: Iterable[Path], protocol: HeldOutProtocol | None = None) -> HeldOut:
        """The first photos with masks of each set. InputError where there is none."""
        protocol, places = protocol or HeldOutProtocol(), list(places)
        kept: list[Photo] = []
        taken: dict[str, int] = {}
        for photo in (photo for place in places for photo in open_dataset(place)):
            if photo.rles and taken.get(photo.source, 0) < protocol.max_photos:
                taken[photo.source] = taken.get(photo.source, 0) + 1
                kept.append(photo)
        if not kept:
            raise InputError(f"no photo with masks in {', '.join(map(str, places))}; nothing to judge a model by.")
        digest = hashlib.sha256(json.dumps([_NAMES, asdict(protocol)], sort_keys=True).encode())
        for photo in kept:
            digest.update(hashlib.sha256(photo.encoded).digest())
        return cls(kept, protocol, digest.hexdigest()[:16])

    def score(self, segmenter: TorchSegmenter, say: Callable[[str], None] = lambda text: None) -> HeldOutScore:
        """Click every chosen mask of every photo."""
        rows: dict[str, list[np.ndarray]] = {}
        rule = Protocol(self.protocol.min_area_px, self.protocol.max_masks)
        for done, photo in enumerate(self.photos, 1):
            truth = chosen_masks(photo, rule)
            if len(truth):
                (embedding,) = segmenter.encode([read_image(photo.encoded)])
                answers = click_rounds(segmenter, embedding, truth, self.protocol.clicks)
                needed = clicks_to_reach(answers.selected, self.protocol.target_iou)
                reached = (answers.selected >= self.protocol.target_iou).any(axis=1).astype(float)
                curve = answers.selected[:, _doubling(self.protocol.clicks)].mean(axis=1)
                one = np.stack([answers.selected[:, 0], answers.oracle, curve, needed, reached], axis=1)
                rows.setdefault(photo.source, []).append(one)
            if done % 20 == 0 or done == len(self.photos):
                say(f"held-out: {done} of {len(self.photos)} photos")
        if not rows:
            raise InputError(f"the held-out photos have no mask of {self.protocol.min_area_px} px² or more.")
        percent = np.array([1.0 if name == "clicks" else 100.0 for name in _NAMES])
        sets = {
            name: dict(zip(_NAMES, (np.concatenate(of).mean(axis=0) * percent).tolist())) for name, of in rows.items()
        }
        mean = {name: float(np.mean([values[name] for values in sets.values()])) for name in _NAMES}
        return HeldOutScore(**mean, num_masks=sum(len(part) for of in rows.values() for part in of), sets=sets)

    def score_once(
        self, folder: Path, sha256: str, load: Callable[[], TorchSegmenter], say: Callable[[str], None]
    ) -> HeldOutScore:
        """The score of weights with this hash, kept in a folder so that no model is judged twice."""
        file = folder / f"{sha256[:16]}-{self.key}.json"
        if file.is_file():
            return HeldOutScore(**json.loads(file.read_text()))
        score = self.score(load(), say)
        folder.mkdir(parents=True, exist_ok=True)
        with write_aside(file) as part:
            part.write_text(json.dumps(score.to_json(), indent=1))
        return score


def _doubling(clicks: int) -> list[int]:
    """Columns of 1, 2, 4, 8, … clicks, as far as `clicks`: the first few weigh most, for people seldom give more."""
    return [2**power - 1 for power in range(clicks.bit_length())]
