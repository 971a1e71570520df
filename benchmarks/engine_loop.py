"""What the data engine gains: the whole simulated loop on photos that the model has never seen, judged on others.

    python benchmarks/engine_loop.py --photos ../shared/data/dev --work loop/ [--model lite]

Each set of --photos is cut in two, in the order of its files, so that neighbouring frames of a video stay together: the
second half is annotated (its masks are known to the simulated annotator alone), the first half judges. Then
`anymask engine run` does stages 1, 2 and 3 with a retraining after each. The last lines are the goals: + 2 points of
mIoU after one click, 15 % fewer clicks to 85 % IoU. `loop/loop-engine/gain.png` is the curve. The commands are printed;
stop it any time, and the same line goes on. Words after `--` go to `anymask engine run`.
"""

from __future__ import annotations

import argparse
import json
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
    parser.add_argument("--work", type=Path, required=True, help="folder of the store, the runs and the curve")
    parser.add_argument("--model", default="lite", help="a name or a weights file to start from")
    parser.add_argument("more", nargs="*", help="options of `anymask engine run`, after --")
    options = parser.parse_args()
    store = options.work / "loop.db"
    if not store.is_file():
        options.work.mkdir(parents=True, exist_ok=True)
        halve(options.photos, options.work)
        anymask("engine", "init", str(store))
        anymask("engine", "models", str(store), "--serve", options.model)
    places = ("--truth", str(options.work / "new"), "--held-out", str(options.work / "held-out"))
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


def halve(place: Path, work: Path) -> None:
    """Shards `held-out/<set>-000.tar` of the first half of each set, `new/<set>-000.tar` of the second."""
    sets: dict[str, list] = {}
    for photo in open_dataset(place):
        if photo.rles:
            sets.setdefault(photo.source, []).append(photo)
    for name, photos in sorted(sets.items()):
        middle = (len(photos) + 1) // 2
        for folder, part in (("held-out", photos[:middle]), ("new", photos[middle:])):
            if part:
                num_masks = write_shard(part, work / folder / f"{name}-000.tar")
                print(f"{folder}: {name}, {len(part)} photos, {num_masks} masks")


def anymask(*words: str) -> None:
    print("anymask " + shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "anymask", *words], check=True)


if __name__ == "__main__":
    main()
