"""Do masks survive bfloat16? `lite` in bf16 against fp32 on real photos: mean IoU of the masks of a grid of clicks.

    python benchmarks/bf16.py [--photos PATH …] [--grid 6]

Without --photos: sample photos of scikit-image. Works on every CPU; where bf16 is emulated it is slow, and says so.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from anymask import SamPredictor, load_model, place, read_image


def masks_of(predictor: SamPredictor, image: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, float]:
    """All three candidates of every click, (P, 3, 4h, 4w) bool, and the seconds it took."""
    started = time.perf_counter()
    predictor.set_image(image)
    low_res = predictor.predict(clicks, np.ones(clicks.shape[:2]))[2]
    return low_res > 0, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="*")
    parser.add_argument("--grid", type=int, default=6)
    args = parser.parse_args()
    photos: dict[str, Any] = {p: read_image(p) for p in args.photos or []}
    if not photos:
        from skimage import data

        photos = {name: getattr(data, name)() for name in ("cat", "astronaut", "coffee", "rocket")}
    predictors = {p: SamPredictor(place(load_model("lite"), "cpu", p)) for p in ("fp32", "bf16")}
    everything = []
    for name, image in photos.items():
        at = (np.arange(args.grid) + 0.5) / args.grid
        grid = np.stack(np.meshgrid(at * image.shape[1], at * image.shape[0]), -1).reshape(-1, 1, 2)
        results = {p: masks_of(predictor, image, grid) for p, predictor in predictors.items()}
        (a, fp32), (b, bf16) = results["fp32"], results["bf16"]
        union = (a | b).sum(axis=(-2, -1))
        iou = (a & b).sum(axis=(-2, -1))[union > 0] / union[union > 0]
        everything.append(iou)
        print(f"{name:12} mean mask IoU {iou.mean():.4f}  lowest {iou.min():.3f}  fp32 {fp32:.1f} s, bf16 {bf16:.1f} s")
    print(f"{'all':12} mean mask IoU {np.concatenate(everything).mean():.4f}")


if __name__ == "__main__":
    main()
