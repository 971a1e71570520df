"""`anymask everything --engine ray` with two workers against one, each on one thread; lite, the sample photos.

    python benchmarks/ray_scale.py [--photos 24] [--points 8] [--turns 2] [--processes]

Photos a second are counted while all workers are busy: from the moment when the last of them has done its first photo
until the first of them has done its last. Start-up (Ray, processes, model) is told apart. `--processes`: the same for
`--engine local`, which has no Ray in it.

Other programs that run meanwhile take time from both; the ratio by processor time leaves theirs out. Bar: 1.8.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from anymask.core.images import write_image
from anymask.predict.everything import Outcome, Plan, prepare
from anymask.predict.options import AutomaticOptions
from anymask.predict.ray_engine import RaySettings, ray_cluster, segment_on_ray
from anymask.predict.sources import find_photos
from anymask.predict.workers import segment_in_workers

BAR = 1.8


class Timed:
    """A generator that notes when and with how much processor time its process did each photo."""

    def __init__(self, log: Path, options: AutomaticOptions) -> None:
        from anymask.cli.everything import load_generator

        self._generator = load_generator("lite", None, "cpu", "fp32", options)
        self._log = log / f"{os.getpid()}.jsonl"

    def generate(self, image: Any, **options: Any) -> Any:
        begun, busy = time.time(), time.process_time()
        records = self._generator.generate(image, **options)
        with self._log.open("a") as file:
            file.write(json.dumps([begun, time.time(), time.process_time() - busy]) + "\n")
        return records


def photos_in(folder: Path, num: int) -> Path:
    """Sample photos, each a little different, so that none is skipped as done."""
    from skimage import data

    folder.mkdir()
    for i, photo in enumerate(islice(cycle([data.astronaut(), data.chelsea(), data.coffee()]), num)):
        write_image(folder / f"{i:03d}.jpg", photo[i:, : photo.shape[1] - i])
    return folder


def rates(log: Path) -> tuple[float, float, int]:
    """Photos a second while all workers are busy, photos a processor second, workers."""
    by_worker = [[json.loads(line) for line in file.read_text().splitlines()] for file in log.iterdir()]
    start, end = max(w[0][1] for w in by_worker), min(w[-1][1] for w in by_worker)
    done = 0.0
    for begun, ended, _ in (photo for w in by_worker for photo in w):
        done += max(0.0, min(ended, end) - max(begun, start)) / (ended - begun)
    later = [photo for w in by_worker for photo in w[1:]]
    return done / (end - start), len(later) / sum(busy for *_, busy in later), len(by_worker)


def measure(photos: Path, options: AutomaticOptions, num_workers: int, on_ray: bool, base: Path) -> dict[str, float]:
    """One run over all photos."""
    log, out = base / "log", base / "out"
    log.mkdir(parents=True)
    plan = Plan(out, "sa1b", options, "lite", overlays=False)
    prepare(plan)
    sources, load = find_photos([photos]), partial(Timed, log, options)
    settings = RaySettings(num_workers, num_threads=1, num_gpus=0, photos_per_task=1)
    started = time.time()
    outcomes: Iterator[Outcome]
    if on_ray:
        outcomes = segment_on_ray(load, sources, plan, settings)  # type: ignore[arg-type]
    else:
        outcomes = segment_in_workers(load, sources, plan, num_workers, 1)  # type: ignore[arg-type]
    found = list(outcomes)
    assert len(found) == len(sources) and not [o for o in found if o.error], found
    wall, by_processor, workers = rates(log)
    assert workers == num_workers
    first = min(json.loads(file.read_text().splitlines()[0])[0] for file in log.iterdir())
    return {"rate": wall, "by_processor": num_workers * by_processor, "start": first - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--processes", action="store_true")
    args = parser.parse_args()
    os.environ.update({"RAY_worker_niceness": "0"})  # by default 15: then whatever else runs comes first
    options = AutomaticOptions.of("lite", points_per_side=args.points, output_mode="coco_rle")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        photos = photos_in(base / "photos", args.photos)
        started = time.time()
        with nullcontext() if args.processes else ray_cluster(RaySettings(2, num_threads=1)):
            print(f"engine {'local' if args.processes else 'ray'}: started in {time.time() - started:.1f} s")
            runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
            for turn in range(args.turns):
                for workers in (1, 2):
                    place = base / f"{turn}-{workers}"
                    runs[workers].append(measure(photos, options, workers, not args.processes, place))
                    told = runs[workers][-1]
                    told_of = f"{told['rate']:.3f} photos/s, {told['by_processor']:.3f} by processor time"
                    print(f"{workers} worker(s): {told_of}, {told['start']:.1f} s to the first photo", flush=True)
    for name in ("rate", "by_processor"):
        one, two = (statistics.median(run[name] for run in runs[n]) for n in (1, 2))
        print(f"two workers against one, {name}: {two / one:.2f}× (bar {BAR})")


if __name__ == "__main__":
    main()
