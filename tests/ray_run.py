"""A run on Ray in a process of its own: `python ray_run.py FOLDER`; for the tests of the Ray engine.

Four runs on one cluster, which takes its time to start; prints what they reported as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from worker_doubles import Squares, no_weights

from anymask.core.errors import AnymaskError
from anymask.predict.everything import Plan, prepare
from anymask.predict.options import AutomaticOptions
from anymask.predict.ray_engine import RaySettings, ray_cluster, segment_on_ray, write_shard_on_ray
from anymask.predict.shards import ShardReport, find_shards, segment_shards
from anymask.predict.sources import find_photos


class Slow(Squares):
    """Takes its time and writes down who did which photo; a worker that is to die tells its number first."""

    def __init__(self, log: Path) -> None:
        super().__init__(log / "white")
        self.log = log

    def generate(self, image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
        with (self.log / "begun").open("a") as file:
            file.write(f"{os.getpid()} {image[0, 0, 0]}\n")
        time.sleep(0.15)
        return super().generate(image, **options)


def kill_a_worker(log: Path) -> None:
    """SIGKILL for the process that does the fifth photo, in the middle of it."""
    while True:
        lines = (log / "begun").read_text().splitlines() if (log / "begun").exists() else []
        if len(lines) >= 5:
            os.kill(int(lines[4].split()[0]), signal.SIGKILL)
            (log / "killed").write_text(lines[4])
            return
        time.sleep(0.01)


def run(mode: str, load: Any, place: Path, out: Path, settings: RaySettings) -> dict[str, Any]:
    """One run; what it reported, or how it ended."""
    plan = Plan(out, "coco" if mode == "files" else "sa1b_shards", AutomaticOptions(), "squares", overlays=False)
    prepare(plan)
    try:
        if mode == "files":
            sources = find_photos([place])
            return {"photos": sorted(o.source.stem for o in segment_on_ray(load, sources, plan, settings))}
        shards = find_shards([place], plan)
        outcomes = segment_on_ray(load, shards, plan, settings)
        answers = list(segment_shards(shards, plan, outcomes, write_shard_on_ray))
        return {r.shard.stem: [r.num_photos, r.num_masks, r.errors] for r in answers if isinstance(r, ShardReport)}
    except AnymaskError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(base: Path) -> None:
    """base: holds a folder of photos or shards for each mode."""
    log = base / "log"
    log.mkdir()
    loads = {"kill": partial(Slow, log), "poison": Squares, "files": Squares, "no_weights": no_weights}
    settings = RaySettings(2, photos_per_task=2, attempts=2)
    told = {}
    with ray_cluster(settings):
        threading.Thread(target=kill_a_worker, args=(log,), daemon=True).start()
        for mode, load in loads.items():
            told[mode] = run(mode, load, base / mode, base / f"{mode}-out", settings)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
