"""The paper's rating study (PAPER §7.2): people rate masks from 1 to 10 and do not know which method made them.

A study is a folder: `study.json` holds photos, jobs and methods, `ratings.jsonl` a line for each rating. A job is one
mask of one method; masks at the same place of the methods' files answer the same prompt, so that methods can be
compared in pairs. A rating that is given twice counts once, the last one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import InputError, NotFoundError
from anymask.core.files import write_aside
from anymask.core.rle import RLE
from anymask.evaluate.fairness import bootstrap
from anymask.predict.formats import read_masks
from anymask.predict.sources import find_files

LEAST_PIXELS = 24**2  # smaller masks cannot be judged (PAPER §7.2)
ON_LOAN_SECONDS = 600.0
_RESAMPLED = 10_000


@dataclass(frozen=True)
class Job:
    """One mask to rate. key: tells nothing of the method. prompt: place in the methods' files. point_xy: in pixels."""

    key: str
    photo: int
    prompt: int
    method: str
    rle: RLE
    point_xy: tuple[float, float] | None


@dataclass
class RatingStudy:
    """A study in use by one process; safe to use from several threads. wanted: ratings of each job."""

    folder: Path
    photos: list[str]
    jobs: dict[str, Job]
    wanted: int = 1
    _ratings: dict[tuple[str, str], int] = field(default_factory=dict)  # (job, rater) to rating
    _loans: dict[str, tuple[str, float]] = field(default_factory=dict)  # job to rater and time
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_job(self, rater: str) -> Job | None:
        """A job that this person has not rated, in an order of their own; jobs with fewer ratings come first.

        A person gets the one that they have in hand again.
        """
        now = time.monotonic()
        with self._lock:
            counts: dict[str, int] = defaultdict(int)
            for job, _ in self._ratings:
                counts[job] += 1
            for key, (who, since) in list(self._loans.items()):
                if now - since > ON_LOAN_SECONDS:
                    del self._loans[key]
                elif who == rater:
                    return self.jobs[key]
                else:
                    counts[key] += 1
            free = [k for k in self.jobs if counts[k] < self.wanted and (k, rater) not in self._ratings]
            if not free:
                return None
            key = min(free, key=lambda k: (counts[k], hashlib.sha256(f"{rater} {k}".encode()).digest()))
            self._loans[key] = (rater, now)
            return self.jobs[key]

    def rate(self, key: str, rater: str, rating: int, seconds: float | None = None) -> None:
        """Keep a rating on the disk. Raises InputError unless 1 … 10, NotFoundError for an unknown job."""
        if key not in self.jobs:
            raise NotFoundError(f"this study has no job {key!r:.40}.")
        if not 1 <= rating <= 10:
            raise InputError(f"a rating is 1 … 10, got {rating}.")
        line = json.dumps({"job": key, "rater": rater, "rating": rating, "seconds": seconds, "at": time.time()})
        with self._lock:
            if self._ratings.get((key, rater)) != rating:
                with (self.folder / "ratings.jsonl").open("a") as file:
                    file.write("\n" + line)  # in front, so that a line that was cut off ends
                    file.flush()
                    os.fsync(file.fileno())
            self._ratings[key, rater] = rating
            self._loans.pop(key, None)

    @property
    def num_rated(self) -> int:
        """Jobs with all ratings that are wanted."""
        counts: dict[str, int] = defaultdict(int)
        for job, _ in list(self._ratings):
            counts[job] += 1
        return sum(count >= self.wanted for count in counts.values())

    def ratings(self) -> list[dict[str, Any]]:
        """Every rating with what it is about."""
        return [
            {
                "method": (job := self.jobs[key]).method,
                "photo": Path(self.photos[job.photo]).name,
                "prompt": job.prompt,
                "rater": rater,
                "rating": rating,
            }
            for (key, rater), rating in self._ratings.items()
        ]


def make_study(
    folder: Path, photos: Path, methods: Mapping[str, Path], wanted: int = 1, least_pixels: int = LEAST_PIXELS
) -> RatingStudy:
    """A new study of masks that several methods made of the same photos and prompts.

    photos: a folder. methods: name to a folder of masks in any format that `anymask convert` reads. Raises InputError
    where the study is there already, a photo is missing, or there is nothing to rate.
    """
    if (folder / "study.json").exists():
        raise InputError(f"{folder} holds a study already; choose another folder, or delete it.")
    places = {path.name: str(path.resolve()) for path in find_files([photos])}
    names: list[str] = []
    jobs = []
    for method, masks in methods.items():
        for photo in read_masks(masks):
            if photo.file_name not in places:
                raise InputError(f"{method} has masks of {photo.file_name}, and {photos} has no such photo.")
            if photo.file_name not in names:
                names.append(photo.file_name)
            for prompt, record in enumerate(photo.masks):
                if record.num_px < least_pixels:
                    continue
                secret = hashlib.sha256(os.urandom(16)).hexdigest()[:16]
                jobs.append(Job(secret, names.index(photo.file_name), prompt, method, record.rle, record.point_xy))
    if not jobs:
        raise InputError(f"there is no mask of {least_pixels} pixels or more to rate.")
    folder.mkdir(parents=True, exist_ok=True)
    jobs.sort(key=lambda job: job.key)  # nothing is to be learned from the order
    about = {"wanted": wanted, "photos": [places[name] for name in names], "jobs": [asdict(job) for job in jobs]}
    with write_aside(folder / "study.json") as aside:
        aside.write_text(json.dumps(about))
    return open_study(folder)


def open_study(folder: Path) -> RatingStudy:
    """A study with its ratings so far. InputError where there is none; a last line that was cut off is left out."""
    try:
        about = json.loads((folder / "study.json").read_text())
        jobs = {job["key"]: Job(**job) for job in about["jobs"]}
        study = RatingStudy(folder, about["photos"], jobs, about["wanted"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no study; `anymask ratings init` makes one.") from error
    kept = folder / "ratings.jsonl"
    for line in kept.read_text().splitlines() if kept.is_file() else []:
        try:
            given = json.loads(line)
            study._ratings[given["job"], given["rater"]] = given["rating"]
        except (ValueError, KeyError):
            continue
    return study


def results(study: RatingStudy, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Mean rating of each method with a bootstrap interval, and of each pair over the prompts that both have."""
    by_method: dict[str, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for rating in study.ratings():
        by_method[rating["method"]][rating["photo"], rating["prompt"]].append(rating["rating"])
    means = {m: {k: float(np.mean(v)) for k, v in prompts.items()} for m, prompts in by_method.items()}
    methods = []
    for name, prompts in sorted(means.items()):
        values = np.array(list(prompts.values()))
        low, high = bootstrap(values, confidence, _RESAMPLED, seed)
        num = sum(map(len, by_method[name].values()))
        methods.append(
            {"method": name, "mean": values.mean(), "low": low, "high": high, "masks": len(values), "ratings": num}
        )
    pairs = []
    for i, first in enumerate(sorted(means)):
        for second in sorted(means)[i + 1 :]:
            both = sorted(means[first].keys() & means[second].keys())
            if not both:
                continue
            more = np.array([means[second][k] - means[first][k] for k in both])
            low, high = bootstrap(more, 0.99, _RESAMPLED, seed)
            pairs.append(
                {"of": second, "over": first, "mean": more.mean(), "low": low, "high": high, "masks": len(both)}
            )
    raters = len({rating["rater"] for rating in study.ratings()})
    return {"raters": raters, "confidence": confidence, "methods": methods, "pairs": pairs, "pair_confidence": 0.99}


def to_csv(study: RatingStudy) -> str:
    """Every rating as a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["method", "photo", "prompt", "rater", "rating"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(study.ratings())
    return text.getvalue()
