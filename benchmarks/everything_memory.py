"""Peak memory of automatic masks on a huge job: 128×128 points, three layers of crops, a photo of 6000×4000.

    python benchmarks/everything_memory.py [--points 128] [--layers 3] [--share 0.02]

What is measured is the generator, so the model is a stand-in without a network: it answers every prompt with three
discs around it, as 256×256 logits, and finds `--share` of the prompts good; those go through upsampling, stability,
run lengths and NMS as any mask does. Printed are megabytes before, after, and at the peak.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from anymask import SamAutomaticMaskGenerator
from anymask.core.geometry import Frame
from anymask.core.types import Embedding, MaskBatch, PromptBatch

SIDE, CELLS = 1024, 256


class Discs:
    """A `Segmenter` whose masks are discs of three sizes around the last click."""

    side, mask_threshold = SIDE, 0.0

    def __init__(self, share: float) -> None:
        self.share, self.rng = share, np.random.default_rng(0)
        self.y, self.x = np.mgrid[:CELLS, :CELLS].astype(np.float32)

    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        return [Embedding(np.zeros((1, 1, 1, 1), np.float32), Frame.of(i.shape[:2], SIDE)) for i in images]

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        count = len(prompts.points_xy)
        low_res = np.zeros((count, 3, CELLS, CELLS), np.float32)
        iou = np.full((count, 3), 0.5, np.float32)
        for i in np.flatnonzero(self.rng.random(count) < self.share):
            cx, cy = np.asarray(prompts.points_xy[i, -1]) * (CELLS / SIDE)
            distance = np.hypot(self.x - cx, self.y - cy)
            for k, radius in enumerate(self.rng.uniform((4, 12, 30), (12, 30, 70))):
                low_res[i, k], iou[i, k] = 8 * (radius - distance), 0.9 + 0.1 * self.rng.random()
        return MaskBatch(low_res, iou)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.02)
    options = parser.parse_args()
    photo = np.zeros((4000, 6000, 3), np.uint8)
    photo[:] = 90
    model = Discs(options.share)
    small = SamAutomaticMaskGenerator(model, points_per_side=2, output_mode="coco_rle")
    small.generate(photo[:64, :64])  # whatever is loaded once
    before, started, tried = peak_mb(), time.perf_counter(), [0]
    generator = SamAutomaticMaskGenerator(
        model, points_per_side=options.points, crop_n_layers=options.layers, output_mode="coco_rle"
    )
    records = generator.generate(photo, progress=lambda done, _: tried.__setitem__(0, done))
    print(f"{tried[0]:,} points, {options.layers} layers of crops, {photo.shape[1]}×{photo.shape[0]}: {len(records):,} "
          f"masks in {time.perf_counter() - started:.0f} s")  # fmt: skip
    print(f"memory: {before:.0f} MiB before, {peak_mb():.0f} MiB at the peak, {peak_mb() - before:.0f} more")


if __name__ == "__main__":
    main()
