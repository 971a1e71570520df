"""One request and one result, shared by the command line and, later, the server."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.files import write_aside
from anymask.core.images import read_image, write_image
from anymask.core.rle import encode_one
from anymask.predict.predictor import SamPredictor
from anymask.predict.render import overlay


@dataclass(frozen=True)
class Request:
    """What to segment in a photo: one object; or, with several boxes and nothing else, one object for each box.

    points_xy with labels (1 foreground, 0 background) and boxes_xyxy in pixels of the photo; mask: (H, W) bool.
    multimask: three candidates, or one mask; None takes three for a single prompt and one for several (PAPER app. A).
    text: a phrase that chooses among masks (`anymask.text`). zoom: look closer at small things (`predict.zoom`).
    """

    points_xy: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes_xyxy: list[tuple[float, float, float, float]] = field(default_factory=list)
    mask: np.ndarray | None = None
    multimask: bool | None = None
    text: str | None = None
    zoom: bool = False

    @property
    def wants_candidates(self) -> bool:
        """Three candidates or one mask?"""
        if self.multimask is not None:
            return self.multimask
        return len(self.points_xy) + min(1, len(self.boxes_xyxy)) + (self.mask is not None) <= 1


@dataclass(frozen=True)
class Result:
    """Masks of one photo. masks: (P, M, H, W) bool, best predicted IoU first. predicted_iou: (P, M).

    seconds: time of "read", "encode" and "decode". similarity: (P, M) to the phrase, where there was one; then the most
    similar comes first.
    """

    image: np.ndarray
    masks: np.ndarray
    predicted_iou: np.ndarray
    seconds: dict[str, float]
    similarity: np.ndarray | None = None


def answer(predictor: SamPredictor, source: Any, request: Request) -> Result:
    """Read a photo, encode it, and answer the request."""
    started = time.perf_counter()
    image = read_image(source)
    read = time.perf_counter()
    predictor.set_image(image)
    encoded = time.perf_counter()
    mask_input = None if request.mask is None else predictor.mask_to_logits(request.mask)
    points: Any = np.array(request.points_xy, dtype=float) if request.points_xy else None
    labels: Any = np.array(request.labels) if request.points_xy else None
    boxes: Any = np.array(request.boxes_xyxy, dtype=float) if request.boxes_xyxy else None
    masks, iou, _ = predictor.predict(points, labels, boxes, mask_input, request.wants_candidates, zoom=request.zoom)
    masks, iou = masks.reshape(-1, *masks.shape[-3:]), iou.reshape(-1, iou.shape[-1])
    order = np.argsort(-iou, axis=1, kind="stable")
    masks = np.take_along_axis(masks, order[:, :, None, None], axis=1)
    iou = np.take_along_axis(iou, order, axis=1)
    done = time.perf_counter()
    seconds = {"read": read - started, "encode": encoded - read, "decode": done - encoded}
    return Result(image, masks, iou, seconds)


def to_json(result: Result, name: str, model: str, request: Request) -> dict[str, Any]:
    """The result as JSON-able data; masks as COCO RLE."""
    objects = []
    for i, (masks, ious) in enumerate(zip(result.masks, result.predicted_iou)):
        candidates: list[dict[str, Any]] = []
        for j, (mask, iou) in enumerate(zip(masks, ious)):
            ys, xs = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
            box = [int(xs[0]), int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1] if len(xs) else [0] * 4
            candidates.append(
                {
                    "predicted_iou": round(float(iou), 4),
                    "area": int(mask.sum()),
                    "bbox": box,  # XYWH
                    "segmentation": encode_one(mask),
                }
            )
            if result.similarity is not None:
                candidates[-1]["similarity"] = round(float(result.similarity[i, j]), 4)
        objects.append({"candidates": candidates})
    height, width = result.image.shape[:2]
    return {
        "image": {"file_name": name, "height": height, "width": width},
        "model": model,
        "prompt": {
            "points": [[*p, label] for p, label in zip(request.points_xy, request.labels)],
            "boxes": [list(b) for b in request.boxes_xyxy],
            "mask": request.mask is not None,
            **({} if request.text is None else {"text": request.text}),
        },
        "objects": objects,
        "seconds": {k: round(v, 4) for k, v in result.seconds.items()},
    }


def picture(result: Result, request: Request) -> np.ndarray:
    """The photo with the best mask of every object and the prompts."""
    best = result.masks[:, 0]
    titles = [f"predicted IoU {iou:.2f}" for iou in result.predicted_iou[:, 0]]
    if result.similarity is not None:
        titles = [f"{request.text} {similarity:.2f}" for similarity in result.similarity[:, 0]]
    return overlay(
        result.image,
        best,
        points=np.array(request.points_xy, dtype=float) if request.points_xy else None,
        labels=np.array(request.labels) if request.points_xy else None,
        boxes=np.array(request.boxes_xyxy, dtype=float) if request.boxes_xyxy else None,
        titles=titles,
    )


def write(result: Result, data: dict[str, Any], request: Request, folder: Path, stem: str) -> list[Path]:
    """Overlay PNG, one PNG for each mask, and the JSON; the overlay's path comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    overlay_path = folder / f"{stem}.overlay.png"
    write_image(overlay_path, picture(result, request))
    paths = [overlay_path]
    for i, masks in enumerate(result.masks):
        for j, mask in enumerate(masks):
            name = f"{stem}.mask{j}.png" if len(result.masks) == 1 else f"{stem}.object{i}.mask{j}.png"
            write_image(folder / name, mask.astype(np.uint8) * 255)
            paths.append(folder / name)
    with write_aside(folder / f"{stem}.json") as part:
        part.write_text(json.dumps(data, indent=1) + "\n")
    return [*paths, folder / f"{stem}.json"]
