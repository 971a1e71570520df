"""Proves: AP and AR are the reference code's, on random predictions, to 1e-6; and what is no prediction is named.

The reference numbers are made here by pycocotools and lvis themselves, called the way their own examples do.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lvis import LVIS, LVISEval, LVISResults
from lvis import eval as lvis_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anymask.core import rle
from anymask.core.errors import InputError
from anymask.evaluate.coco_scores import check_results, coco_scores, lvis_scores, recall_scores, rim

HW = (160, 200)


def random_mask(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(HW, np.uint8)
    centre = (int(rng.integers(10, 190)), int(rng.integers(10, 150)))
    axes = (int(rng.integers(4, 70)), int(rng.integers(4, 70)))
    cv2.ellipse(mask, centre, axes, int(rng.integers(180)), 0, 360, 1, -1)
    return mask.astype(bool)


@pytest.fixture(scope="module")
def random_set() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """LVIS ground truth of 12 photos and 4 categories, and noisy predictions of it."""
    rng = np.random.default_rng(5)
    images, annotations, results = [], [], []
    for i in range(12):
        images.append(
            {"id": i, "height": HW[0], "width": HW[1], "neg_category_ids": [4], "not_exhaustive_category_ids": [2]}
        )
        for _ in range(int(rng.integers(1, 9))):
            mask, category = random_mask(rng), int(rng.integers(1, 4))
            encoded = rle.encode_one(mask)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": category, "iscrowd": 0,
                 "area": int(mask.sum()), "bbox": rle.to_bbox_xywh(encoded), "segmentation": encoded}
            )  # fmt: skip
            for _ in range(int(rng.integers(0, 4))):
                shifted = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
                wrong = rng.random() < 0.15
                results.append(_result(i, int(rng.integers(1, 5)) if wrong else category, shifted, rng))
        for _ in range(3):
            results.append(_result(i, int(rng.integers(1, 5)), random_mask(rng), rng))
    categories = [{"id": k + 1, "name": f"c{k}", "frequency": f, "image_count": 5} for k, f in enumerate("rcff")]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}, results


def _result(image: int, category: int, mask: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    encoded = rle.encode_one(mask)
    box = rle.to_bbox_xywh(encoded)
    return {"image_id": image, "category_id": category, "segmentation": encoded, "bbox": box, "score": rng.random()}


def reference_coco(truth: dict[str, Any], results: list[dict[str, Any]], kind: str, **params: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(truth))
        gt.createIndex()
        found = json.loads(json.dumps(results))
        for result in found:
            result.pop("bbox" if kind == "segm" else "segmentation")
        evaluation = COCOeval(gt, gt.loadRes(found), kind)
        for key, value in params.items():
            setattr(evaluation.params, key, value)
        evaluation.evaluate()
        evaluation.accumulate()
        if not params:
            evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_ap_is_that_of_pycocotools(random_set: Any, kind: str) -> None:
    truth, results = random_set
    field = "bbox" if kind == "bbox" else "segmentation"
    ours = coco_scores(truth, [{k: r[k] for k in ("image_id", "category_id", "score", field)} for r in results], kind)
    stats = reference_coco(truth, results, kind).stats
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    np.testing.assert_allclose([ours[n] for n in names], stats[:6], atol=1e-6)
    np.testing.assert_allclose([ours[n] for n in ("AR100", "AR100s", "AR100m", "AR100l")], stats[8:], atol=1e-6)
    assert 0.05 < ours["AP"] < 0.95


def test_recall_is_that_of_both_references(random_set: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, results = random_set
    ours = recall_scores(truth, results, (1, 3, 1000))
    one = [{**r, "category_id": 1} for r in results]
    for k in (1, 3, 1000):
        reference = reference_coco(truth, one, "segm", useCats=0, maxDets=[k]).eval["recall"]
        assert ours[f"AR@{k}"] == pytest.approx(reference[..., 0, 0].mean(), abs=1e-6)
    assert ours["AR@1"] < ours["AR@3"] < ours["AR@1000"]
    monkeypatch.setattr(np, "float", float, raising=False)
    gt = lvis_of(  # one category for all; lvis 0.5.3 without categories finds nothing at all
        {
            **truth,
            "images": [{**i, "not_exhaustive_category_ids": []} for i in truth["images"]],
            "annotations": [{**a, "category_id": 1} for a in truth["annotations"]],
            "categories": truth["categories"][:1],
        }
    )
    with pytest.warns(DeprecationWarning):
        evaluation = LVISEval(
            gt, LVISResults(gt, [{k: v for k, v in r.items() if k != "bbox"} for r in one], 1000), "segm"
        )
    evaluation.params.max_dets = 1000
    evaluation.evaluate()
    evaluation.accumulate()
    recall = evaluation.eval["recall"]  # (IoU, categories, areas)
    for name, area in (("AR", 0), ("ARs", 1), ("ARm", 2), ("ARl", 3)):
        known = recall[..., area][recall[..., area] > -1]
        assert ours[f"{name}@1000"] == pytest.approx(known.mean() if known.size else -1, abs=1e-6), name
    rare = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] == 1]}
    reference = reference_coco(rare, one, "segm", useCats=0, maxDets=[1000]).eval["recall"]
    assert ours["ARr@1000"] == pytest.approx(reference[..., 0, 0].mean(), abs=1e-6)
    assert len({round(ours[f"AR{g}@1000"], 9) for g in "rcf"}) == 3


def lvis_of(truth: dict[str, Any]) -> Any:
    gt = LVIS.__new__(LVIS)
    import logging

    gt.logger, gt.dataset = logging.getLogger("lvis"), json.loads(json.dumps(truth))
    gt._create_index()
    return gt


def test_lvis_ap_is_that_of_lvis(random_set: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, results = random_set
    ours = lvis_scores(truth, results)
    monkeypatch.setattr(np, "float", float, raising=False)
    monkeypatch.setattr(lvis_eval, "np", np)
    for name, content in (("gt", truth), ("dt", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    evaluation = LVISEval(str(tmp_path / "gt.json"), str(tmp_path / "dt.json"), "segm")
    evaluation.run()
    assert set(ours) == set(evaluation.results) and 0.05 < ours["AP"] < 0.95
    np.testing.assert_allclose(list(ours.values()), [evaluation.results[k] for k in ours], atol=1e-6)


def test_boundary_ap_minds_the_rim(random_set: Any) -> None:
    truth, results = random_set
    results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    mask, boundary = (coco_scores(truth, results, kind)["AP"] for kind in ("segm", "boundary"))
    assert 0 < boundary < mask
    perfect = [
        {**{k: a[k] for k in ("image_id", "category_id", "segmentation")}, "score": 1.0} for a in truth["annotations"]
    ]
    assert coco_scores(truth, perfect, "boundary")["AP"] == pytest.approx(1)
    full = rle.decode_one(rim(rle.encode_one(np.ones((100, 100), bool))))
    assert full[:3].all() and full[:, -3:].all() and not full[3:-3, 3:-3].any()  # 2 % of 141 px


def test_what_is_no_prediction_is_named(random_set: Any) -> None:
    truth, results = random_set
    bad = [
        {**results[0], "image_id": 99},
        {**results[0], "score": float("nan")},
        {k: v for k, v in results[0].items() if k != "bbox"},
        {**results[0], "bbox": [0, 0, float("nan"), 1]},
    ]
    problems = check_results(truth, [*results, *bad], "bbox")
    assert len(problems) == 4 and all(word in problems[i] for i, word in enumerate(("99", "score", "bbox", "nan")))
    with pytest.raises(InputError, match="no annotation"):
        coco_scores({**truth, "annotations": []}, results, "segm")
    nothing = coco_scores(truth, [], "segm")
    assert nothing["AP"] == 0 and recall_scores(truth, [], (10,))["AR@10"] == 0
