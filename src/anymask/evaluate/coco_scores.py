"""Average precision and recall of masks or boxes, by the reference code: pycocotools for COCO's rules, lvis for LVIS's.

Boundary AP replaces the mask IoU by the smaller of itself and the IoU of the masks' rims (Cheng et al., CVPR 2021).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anymask.core import rle as rles
from anymask.core.errors import InputError, MissingExtraError

RIM = 0.02  # width of a mask's rim in shares of the photo's diagonal (boundary AP's default for COCO)
_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def check_results(truth: dict[str, Any], results: Sequence[dict[str, Any]], needs: str) -> list[str]:
    """Problems of a results list, one line each: photos that are not in the truth, scores or numbers that are none.

    needs: "bbox" or "segmentation".
    """
    known, problems = {image["id"] for image in truth["images"]}, []
    for i, result in enumerate(results):
        if result.get("image_id") not in known:
            problems.append(f"result {i}: image_id {result.get('image_id')!r} is not in the ground truth")
        elif needs not in result:
            problems.append(f"result {i}: has no {needs!r}")
        elif not np.isfinite(float(result.get("score", "nan"))):
            problems.append(f"result {i}: score {result.get('score')!r} is not a number")
        elif needs == "bbox" and (len(result["bbox"]) != 4 or not np.isfinite(result["bbox"]).all()):
            problems.append(f"result {i}: bbox {result['bbox']!r} is not four numbers")
    return problems


def coco_scores(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, max_dets: int = 100
) -> dict[str, float]:
    """COCO AP of results in COCO's JSON form against a COCO data set, in 0 … 1; -1 where there is no ground truth.

    kind: "bbox", "segm", or "boundary". Keys `AP AP50 AP75 APs APm APl`, and `AR<max_dets>` with `s m l`.
    """
    if not truth.get("annotations"):
        raise InputError("the ground truth has no annotation; there is nothing to score against.")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its life story
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        dt = gt.loadRes([dict(r) for r in results]) if results else _no_results(gt)
        evaluation = (BoundaryEval if kind == "boundary" else COCOeval)(gt, dt, "bbox" if kind == "bbox" else "segm")
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    return _summary(evaluation, max_dets)


def recall_scores(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], num_proposals: Sequence[int] = (10, 100, 1000)
) -> dict[str, float]:
    """AR@k of class-free proposals (masks with scores), mean over IoU 0.5 … 0.95, by COCO's rules; in 0 … 1.

    Keys `AR@k`, and for the last k `ARs@k ARm@k ARl@k`. Where the truth's categories have an LVIS `frequency`,
    also `ARf@k ARc@k ARr@k`, each against the ground truth of these categories alone. -1 without ground truth.
    """
    scores = {}
    for k in num_proposals:
        own = _class_free(truth, results, k)
        scores[f"AR@{k}"] = own["AR"]
    most = max(num_proposals)
    scores |= {f"AR{size}@{most}": own[f"AR{size}"] for size in "sml"}
    frequency = {c["id"]: c.get("frequency") for c in truth["categories"]}
    if any(frequency.values()):
        for group in "fcr":
            some = [a for a in truth["annotations"] if frequency.get(a["category_id"]) == group]
            part = {**truth, "annotations": some}
            scores[f"AR{group}@{most}"] = _class_free(part, results, most)["AR"] if some else -1.0
    return scores


def lvis_scores(truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str = "segm") -> dict[str, float]:
    """LVIS AP (federated: only categories known to be there or not there count), in 0 … 1: `AP … APr APc APf`."""
    try:
        from lvis import LVIS, LVISEval, LVISResults
        from lvis import eval as lvis_eval
    except ImportError as error:
        raise MissingExtraError("LVIS's rules come with: pip install 'anymask[evaluate]'") from error
    if not results:
        raise InputError("there is no result to score.")
    lvis_eval.np = _NumpyOfItsTime()
    gt = LVIS.__new__(LVIS)  # from memory; its constructor reads a file
    gt.logger = logging.getLogger("lvis")
    gt.dataset = truth
    gt._create_index()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        evaluation = LVISEval(gt, LVISResults(gt, [dict(r) for r in results], max_dets=300), kind)
    evaluation.run()
    return {key: float(value) for key, value in evaluation.get_results().items()}


class _NumpyOfItsTime:
    """numpy with the name `float`, which numpy 1.24 removed and lvis 0.5.3 still uses."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class BoundaryEval(COCOeval):  # type: ignore[misc]
    """COCO's evaluation with the smaller of mask IoU and rim IoU."""

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 (pycocotools' names)
        """IoU of the detections, best first and at most the last of maxDets, with the ground truth."""
        ious = super().computeIoU(imgId, catId)
        if not len(ious):
            return ious
        keys = [(imgId, catId)] if self.params.useCats else [(imgId, c) for c in self.params.catIds]
        truth = [g for key in keys for g in self._gts[key]]
        found = [d for key in keys for d in self._dts[key]]
        order = np.argsort([-d["score"] for d in found], kind="mergesort")[: self.params.maxDets[-1]]
        rims = [[rim(m["segmentation"]) for m in masks] for masks in ([found[i] for i in order], truth)]
        crowd = [int(g["iscrowd"]) for g in truth]
        return np.where(crowd, ious, np.minimum(ious, coco_mask.iou(*rims, crowd)))


def rim(segmentation: Any) -> dict[str, Any]:
    """The pixels of a mask (RLE) nearer to its boundary than RIM of the diagonal, the photo's border included."""
    mask = rles.decode_one(segmentation).astype(np.uint8)
    width = max(1, round(RIM * float(np.hypot(*mask.shape))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return dict(coco_mask.encode(np.asfortranarray(mask - inner)))


def _class_free(truth: dict[str, Any], results: Sequence[dict[str, Any]], k: int) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        one = truth["categories"][0]["id"]
        dt = gt.loadRes([{**r, "category_id": one} for r in results]) if results else _no_results(gt)
        evaluation = COCOeval(gt, dt, "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [k]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"]  # (IoU thresholds, 1, areas, 1)
    return {name: _mean(recall[:, :, i, 0]) for i, name in enumerate(("AR", "ARs", "ARm", "ARl"))}


def _summary(evaluation: Any, max_dets: int) -> dict[str, float]:
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, M), (T, K, A, M)
    thresholds = evaluation.params.iouThrs
    scores = [_mean(precision[..., 0, -1])]
    scores += [_mean(precision[np.isclose(thresholds, t)][..., 0, -1]) for t in (0.5, 0.75)]
    scores += [_mean(precision[..., i, -1]) for i in (1, 2, 3)]
    names = (*_AP, *(f"AR{max_dets}{size}" for size in ("", "s", "m", "l")))
    return dict(zip(names, [*scores, *(_mean(recall[..., i, -1]) for i in range(4))]))


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _no_results(gt: Any) -> Any:
    none = COCO()
    none.dataset = {"images": gt.dataset["images"], "categories": gt.dataset["categories"], "annotations": []}
    none.createIndex()
    return none
