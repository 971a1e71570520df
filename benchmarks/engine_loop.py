"""What the data engine gains: the whole simulated loop on photos that the model has never seen, judged on others.

    python benchmarks/engine_loop.py --photos TRAIN --held-out DEV --work loop/ -- --photos 400,300,500 …
    python benchmarks/engine_loop.py --photos DEV --work loop/ [--model lite]

With --held-out a young `lite` is trained from ImageNet's weights on the first fifth of each set of --photos (`--seed`,
recipe `lite_young`); the rest is photos without masks, whose truth the simulated annotator alone knows. Without, each
set of --photos is cut in two for a model that exists: the second half is annotated, the first judges. Sets are cut in
the order of their files, so that neighbouring frames of a video stay together. Then `anymask engine run` does stages
1, 2 and 3 with a retraining after each. The last lines are the goals: + 2 points of mIoU after one click, 15 % fewer
clicks to 85 % IoU. `loop/loop-engine/gain.png` is the curve. The commands are printed; stop it any time, and the same
line goes on. Words after `--` go to `anymask engine run`.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

from anymask.data.readers import open_dataset
from anymask.data.shards import write_shard

GOAL_POINTS, GOAL_CLICKS = 2.0, -15.0
PLAN = """--stages 1,2,3 --photos 110,50,40 --max-masks 10 --move-on 90 --detector-steps 80
--generator points_per_side=8 --dev-photos 5 --dev-masks 3 --dev-clicks 5"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="photos with masks, unknown to the model")
    parser.add_argument("--held-out", type=Path, help="photos with masks that judge; then a young lite is trained")
    parser.add_argument("--seed", type=float, default=0.2, help="share of --photos that the young lite is trained on")
    parser.add_argument("--work", type=Path, required=True, help="folder of the store, the runs and the curve")
    parser.add_argument("--model", default="lite", help="a name or a weights file to start from, without --held-out")
    parser.add_argument("more", nargs="*", help="options of `anymask engine run`, after --")
    options = parser.parse_args()
    store = options.work / "loop.db"
    judges, model = options.held_out or options.work / "held-out", options.model
    if not store.is_file():
        options.work.mkdir(parents=True, exist_ok=True)
        if options.held_out is None:
            cut(options.photos, options.work / "held-out", options.work / "new", 0.5)
        else:
            cut(options.photos, options.work / "seed", options.work / "new", options.seed)
            young = options.work / "young"
            anymask("train", "--config", "lite_young", "--data", str(options.work / "seed"), "--out", str(young))
            model = young / "model.safetensors"
        anymask("engine", "init", str(store))
        anymask("engine", "models", str(store), "--serve", str(model))
    places = ("--truth", str(options.work / "new"), "--held-out", str(judges))
    anymask("engine", "run", str(store), "--simulate", *places, *shlex.split(PLAN), *options.more)
    points = json.loads((options.work / "loop-engine" / "gain.json").read_text())
    first, last = points[0]["score"], [point for point in points if point["is_promoted"]][-1]["score"]
    gained, clicks = last["selected"] - first["selected"], 100 * (last["clicks"] / first["clicks"] - 1)
    print(f"one click, most confident mask: {gained:+.1f} points, goal {GOAL_POINTS:+.0f}")
    print(f"one click, best of three: {last['oracle'] - first['oracle']:+.1f} points")
    print(f"clicks to a good mask: {clicks:+.1f} %, goal {GOAL_CLICKS:+.0f} %")
    for name, before in first["sets"].items():
        after = last["sets"][name]
        print(f"  {name:12} {before['selected']:5.1f} → {after['selected']:5.1f}, clicks {before['clicks']:.2f} → "
              f"{after['clicks']:.2f}")  # fmt: skip


def cut(place: Path, first: Path, rest: Path, share: float) -> None:
    """Shards `<set>-000.tar` of the first `share` of each set in one folder, of the others in another."""
    sets: dict[str, list] = {}
    for photo in open_dataset(place):
        if photo.rles:
            sets.setdefault(photo.source, []).append(photo)
    for name, photos in sorted(sets.items()):
        middle = math.ceil(round(len(photos) * share, 6))
        for folder, part in ((first, photos[:middle]), (rest, photos[middle:])):
            if part:
                num_masks = write_shard(part, folder / f"{name}-000.tar")
                print(f"{folder.name}: {name}, {len(part)} photos, {num_masks} masks")


def anymask(*words: str) -> None:
    print("anymask " + shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "anymask", *words], check=True)


if __name__ == "__main__":
    main()
