"""Which candidate masks stay: stability, crop edges, and boxes that say the same thing (PAPER §4.4)."""

from __future__ import annotations

import numpy as np

EDGE_PX = 20.0  # a box side this near to a crop's side counts as cut off (official code)


def stability(logits: np.ndarray, threshold: float, offset: float) -> float:
    """IoU of the masks at `threshold + offset` and `threshold - offset`, for logits of any shape; in float32.

    NaN where even the larger of the two is empty: no comparison with NaN is true, so such a mask is dropped.
    """
    inner = np.count_nonzero(logits > threshold + offset)
    outer = np.count_nonzero(logits > threshold - offset)
    return float(np.float32(inner) / np.float32(outer)) if outer else float("nan")


def cut_off_by_crop(boxes_xyxy: np.ndarray, crop_xyxy: tuple[int, ...], image_hw: tuple[int, int]) -> np.ndarray:
    """(N,) bool: boxes (N, 4) of the photo with a side near the crop's same side but not near the photo's.

    Such a mask probably belongs to an object that goes on outside the crop.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    near_crop = np.abs(boxes - np.asarray(crop_xyxy, dtype=np.float32)) <= EDGE_PX
    near_image = np.abs(boxes - np.asarray([0, 0, image_hw[1], image_hw[0]], dtype=np.float32)) <= EDGE_PX
    return np.asarray((near_crop & ~near_image).any(axis=1))


def nms(boxes_xyxy: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Indices (K,) of the boxes (N, 4) that stay, best score first; equal scores in the order given.

    Greedy: the best box removes all that overlap it by an IoU *above* the threshold, and so on. The same as
    `torchvision.ops.nms` on the CPU: float32 arithmetic, and a box without area neither removes nor is
    removed.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        others = boxes[order]
        low = np.maximum(boxes[best, :2], others[:, :2])
        size = np.maximum(np.minimum(boxes[best, 2:], others[:, 2:]) - low, 0)
        shared = size[:, 0] * size[:, 1]
        with np.errstate(invalid="ignore"):  # 0 / 0 for two boxes without area: NaN, never above
            iou = shared / (areas[best] + areas[order] - shared)
        order = order[~(iou.astype(np.float64) > iou_threshold)]
    return np.array(kept, dtype=np.int64)
