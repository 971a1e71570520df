"""What fine-tuning gives: quality on a new domain before and after, and the minutes in between.

    python benchmarks/finetune.py --train adapt/nuclei-000.tar --dev dev/nuclei-000.tar [--recipe finetune]

Both evaluations ask for the same masks (centre click and tight box, as in lite_dev.py). CPU minutes are those of all
threads and the data loader together: on a machine that does other things as well, the wall clock says little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import torch

from anymask import SamPredictor, load_model, place
from anymask.cli.train import find_recipe
from anymask.data.readers import open_dataset
from anymask.evaluate.point_to_mask import Protocol, evaluate_photos, summarise
from anymask.train.config import load_config
from anymask.train.loop import Trainer

COLUMNS = ("click_oracle", "click_selected", "box_oracle", "box_selected")


def quality(weights: Path | str, dev: Path, protocol: Protocol, precision: str) -> dict[str, float]:
    """Mean IoU in percent of each prompt on the labelled photos of `dev`."""
    predictor = SamPredictor(place(load_model(weights), "cpu", precision))
    return summarise(evaluate_photos(predictor, open_dataset(dev), protocol))["mean"]


def cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in (resource.getrusage(kind) for kind in kinds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--recipe", default="finetune")
    parser.add_argument("--set", dest="override", action="append", default=[])
    parser.add_argument("--out", type=Path, help="folder of the run; default: a temporary one")
    parser.add_argument("--threads", type=int, help="for torch; default: all cores")
    parser.add_argument("--max-masks", type=int, help="of each dev photo; default: all")
    parser.add_argument("--precision", default="fp32", help="of the evaluations")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    protocol = Protocol(max_masks=args.max_masks)
    config = load_config(find_recipe(args.recipe), args.override)
    photos = list(open_dataset(args.train))
    print(f"{len(photos)} photos with {sum(len(p.rles) for p in photos)} masks, {os.cpu_count()} cores, "
          f"{torch.get_num_threads()} threads", flush=True)
    before = quality(config.init or "lite", args.dev, protocol, args.precision)
    print(f"before: {json.dumps({k: round(before[k], 1) for k in COLUMNS})}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        wall, cpu = time.perf_counter(), cpu_seconds()
        Trainer(config, photos, out).run()
        wall, cpu = (time.perf_counter() - wall) / 60, (cpu_seconds() - cpu) / 60
        after = quality(out / "model.safetensors", args.dev, protocol, args.precision)
    print(f"{'':8}" + "".join(f"{name.replace('_', ' '):>16}" for name in COLUMNS))
    for name, row in (("before", before), ("after", after)):
        print(f"{name:8}" + "".join(f"{row[column]:16.1f}" for column in COLUMNS))
    print(f"{'gain':8}" + "".join(f"{after[column] - before[column]:+16.1f}" for column in COLUMNS))
    print(f"{config.total_steps} steps in {wall:.1f} minutes, {cpu:.1f} CPU minutes")
    if args.json:
        args.json.write_text(json.dumps({"before": before, "after": after, "wall_min": wall, "cpu_min": cpu}) + "\n")


if __name__ == "__main__":
    main()
