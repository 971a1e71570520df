"""Edges: our evaluator against the reference benchmark's outputs, and detectors against each other on one evaluator.

    python benchmarks/edges.py --reference BENCH
    python benchmarks/edges.py --truth LABELMAPS.tar --data PHOTOS.tar [--methods model,canny] [--max-photos 30]

BENCH holds `groundTruth/*.mat`, contour maps `png/*.png` and the reference code's outputs `test_2/eval_bdry*.txt`, made
at five thresholds. Prints ours, theirs and the difference; fails where one of ODS, OIS, AP, or of the recalls and
precisions at a threshold, differs by more than 0.005.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from anymask.evaluate.edge_methods import LITE_EDGES, MaskEdges
from anymask.evaluate.edges import EdgeRun, Edges
from anymask.evaluate.models import ModelChoice
from anymask.evaluate.runner import run_task

ALLOWED = 0.005
FIELDS = ("ODS threshold", "ODS recall", "ODS precision", "ODS", "OIS recall", "OIS precision", "OIS", "AP")
KEYS = ("ods_threshold", "ods_recall", "ods_precision", "ods", "ois_recall", "ois_precision", "ois", "ap")


def against_reference(bench: Path) -> bool:
    """Print both and tell whether they agree."""
    theirs = np.loadtxt(bench / "test_2" / "eval_bdry.txt")
    by_threshold = np.loadtxt(bench / "test_2" / "eval_bdry_thr.txt")
    started = time.perf_counter()
    protocol = EdgeRun(num_thresholds=len(by_threshold))
    result = run_task(Edges(bench, f"folder:{bench / 'png'}", protocol=protocol)).summary
    seconds = time.perf_counter() - started
    rows = [(name, result[key], value) for name, key, value in zip(FIELDS, KEYS, theirs)]
    for i, name in enumerate(("recall", "precision", "f"), 1):
        rows += [(f"{name} at {t:.3f}", x, y) for t, x, y in zip(by_threshold[:, 0], result[name], by_threshold[:, i])]
    print(f"{'':22}{'ours':>9}{'reference':>11}{'difference':>12}")
    for name, ours, reference in rows:
        print(f"{name:22}{ours:9.4f}{reference:11.4f}{ours - reference:12.4f}")
    worst = max(abs(ours - reference) for _, ours, reference in rows)
    print(f"largest difference {worst:.4f}, allowed {ALLOWED}; {result['images']} photos in {seconds:.1f} s")
    return worst <= ALLOWED


def detectors(truth: Path, data: Path, methods: list[str], max_photos: int | None, model: str) -> None:
    """ODS, OIS, AP, R50 and time of each method."""
    print(f"{'method':16}{'ODS':>7}{'OIS':>7}{'AP':>7}{'R50':>7}{'s/photo':>9}")
    for method in methods:
        started = time.perf_counter()
        protocol = EdgeRun(masks=LITE_EDGES if model == "lite" else MaskEdges())
        outcome = run_task(Edges(truth, method, data, protocol, ModelChoice(model), max_photos))
        seconds = (time.perf_counter() - started) / outcome.num_scored
        values = "".join(f"{outcome.summary[k]:7.3f}" for k in ("ods", "ois", "ap", "r50"))
        print(f"{method:16}{values}{seconds:9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--methods", default="model,canny,sobel,felzenszwalb")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--max-photos", type=int)
    args = parser.parse_args()
    if args.reference and not against_reference(args.reference):
        raise SystemExit("the evaluator does not reproduce the reference outputs.")
    if args.truth and args.data:
        detectors(args.truth, args.data, args.methods.split(","), args.max_photos, args.model)


if __name__ == "__main__":
    main()
