"""Quality of a model on labelled photos: one centre click and one tight box, per set and on the mean over sets.

    python benchmarks/lite_dev.py --data DEV [--weights FILE] [--grabcut] [--clicks 3,8] [--zoom] [--max-photos 20 ...]

DEV is a folder of tar shards in the SA-1B layout. With --grabcut OpenCV's GrabCut gets the
same boxes of the same masks. --clicks adds the IoU after so many corrective clicks, each where the mask is most wrong,
with the logits fed back. Masks under 100 px² are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import Progress

from anymask import SamPredictor, load_model, place
from anymask.core.images import read_image
from anymask.core.masks import mask_boxes
from anymask.data.readers import Photo, read_shards
from anymask.evaluate.point_to_mask import Protocol, chosen_masks, evaluate_photos, summarise


def grabcut_scores(photos: list[Photo], protocol: Protocol) -> dict[str, float]:
    """IoU in percent of GrabCut (5 iterations, from the box) per set."""
    per_set: dict[str, list[float]] = {}
    taken: dict[str, int] = {}
    for photo in photos:
        taken[photo.source] = taken.get(photo.source, 0) + 1
        if protocol.max_photos and taken[photo.source] > protocol.max_photos:
            continue
        truth = chosen_masks(photo, protocol)
        image = cv2.resize(read_image(photo.encoded), photo.hw[::-1], interpolation=cv2.INTER_AREA)
        for mask, (x0, y0, x1, y1) in zip(truth, mask_boxes(truth)):
            per_set.setdefault(photo.source, []).append(100 * grabcut_iou(image, mask, (x0, y0, x1, y1)))
    return {source: float(np.mean(values)) for source, values in per_set.items()}


def grabcut_iou(image: np.ndarray, truth: np.ndarray, box: tuple[int, ...]) -> float:
    """GrabCut started from the tight box (last pixels included): probable foreground inside, background outside."""
    x0, y0, x1, y1 = box
    labels = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y0 : y1 + 1, x0 : x1 + 1] = cv2.GC_PR_FGD
    if (labels == cv2.GC_BGD).sum() < 10:  # the box is the photo: nothing is known to be background
        result = labels == cv2.GC_PR_FGD
    else:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(image, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
        result = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return float((result & truth).sum() / max(1, (result | truth).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="default: the model inside the package")
    parser.add_argument("--grabcut", action="store_true")
    parser.add_argument("--clicks", type=lambda text: tuple(int(n) for n in text.split(",")), default=(),
                        help="numbers of clicks, such as 3,8: IoU of the mask after each")
    parser.add_argument("--zoom", action="store_true", help="answer prompts on small things again on a crop")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--threads", type=int, help="for torch; 1 is much faster on a machine that is busy")
    parser.add_argument("--max-photos", type=int)
    parser.add_argument("--max-masks", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    protocol = Protocol(max_photos=args.max_photos, max_masks=args.max_masks, clicks=args.clicks, zoom=args.zoom)
    if args.threads:
        torch.set_num_threads(args.threads)
    photos = read_shards([args.data])
    predictor = SamPredictor(place(load_model(args.weights or "lite"), "cpu", args.precision))
    started = time.perf_counter()
    with Progress() as bar:
        task = bar.add_task("photos", total=len(photos))
        scores = evaluate_photos(predictor, photos, protocol, lambda photo: bar.advance(task))
    table = summarise(scores)
    grabcut = grabcut_scores(photos, protocol) if args.grabcut else {}
    print(f"{'set':14}{'masks':>7}{'click oracle':>14}{'selected':>10}{'box oracle':>12}{'selected':>10}", end="")
    print("".join(f"{f'{n} clicks':>10}" for n in args.clicks) + (f"{'GrabCut box':>13}" if grabcut else ""))
    for source, row in table.items():
        members = [source] if source in grabcut else [s for s in grabcut if in_group(s, source)]
        print(
            f"{source:14}{row['masks']:7.0f}{row['click_oracle']:14.1f}{row['click_selected']:10.1f}"
            f"{row['box_oracle']:12.1f}{row['box_selected']:10.1f}"
            + "".join(f"{row[f'clicks_{n}']:10.1f}" for n in args.clicks)
            + (f"{np.mean([grabcut[m] for m in members]):13.1f}" if grabcut else "")
        )
    print(f"{len(scores)} prompts in {time.perf_counter() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps({"table": table, "grabcut": grabcut}, indent=1) + "\n")


def in_group(source: str, group: str) -> bool:
    """Does a set belong to `mean`, `same-domain` or `zero-shot`?"""
    from anymask.evaluate.point_to_mask import ZERO_SHOT_SETS

    return group == "mean" or (source in ZERO_SHOT_SETS) == (group == "zero-shot")


if __name__ == "__main__":
    main()
