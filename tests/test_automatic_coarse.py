"""A coarse first look: most points are settled with a quarter of the cells, and the masks stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage import data

from anymask import SamAutomaticMaskGenerator, SamPredictor
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.predict.coarse import best_of_each

GRID = 8


class Counting:
    """A segmenter that counts the points it decodes, by cells a side."""

    def __init__(self, segmenter: Any, coarser: bool = True) -> None:
        self._segmenter, self.points = segmenter, {}
        self.side, self.mask_threshold, self.encode = segmenter.side, segmenter.mask_threshold, segmenter.encode
        if coarser:
            self.coarser = segmenter.coarser

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        cells = embedding.features.shape[-1]
        self.points[cells] = self.points.get(cells, 0) + len(prompts.points_xy)
        return self._segmenter.decode(embedding, prompts, multimask)


@pytest.fixture(scope="module")
def lite() -> Any:
    return SamPredictor.from_pretrained("lite", device="cpu", precision="fp32").segmenter


@pytest.fixture(scope="module")
def every_point(lite: Any) -> list[dict[str, Any]]:
    return SamAutomaticMaskGenerator(lite, GRID, preset="lite", coarse_first=False).generate(data.coffee())


def masks_of(segmenter: Any, **options: Any) -> list[dict[str, Any]]:
    return SamAutomaticMaskGenerator(segmenter, GRID, preset="lite").generate(data.coffee(), **options)


def share_found(records: list[dict[str, Any]], wanted: list[dict[str, Any]], least_iou: float) -> float:
    def iou(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum() / (a | b).sum())

    best = [max(iou(w["segmentation"], r["segmentation"]) for r in records) for w in wanted]
    return float(np.mean(np.array(best) >= least_iou))


def test_lite_decodes_few_points_in_full_and_finds_the_same(lite: Any, every_point: list[dict[str, Any]]) -> None:
    counting = Counting(lite)
    records = masks_of(counting)
    assert counting.points[32] == GRID**2
    assert 0 < counting.points[64] < 0.5 * GRID**2
    assert len(every_point) >= 4
    assert share_found(records, every_point, 0.9) >= 0.8


def test_a_segmenter_that_cannot_look_coarsely_decodes_every_point(
    lite: Any, every_point: list[dict[str, Any]]
) -> None:
    counting = Counting(lite, coarser=False)
    assert len(masks_of(counting)) == len(every_point)
    assert counting.points == {64: GRID**2}


def test_limited_time_gives_masks_of_the_first_points_at_once(lite: Any) -> None:
    counting, told = Counting(lite), []
    records = masks_of(counting, time_budget_s=0, progress=lambda *n: told.append(n))
    assert records and counting.points == {32: 16, 64: min(16, counting.points[64])}
    assert all(total == GRID**2 for _, total in told)


def test_the_best_three_of_each_kind_go_on() -> None:
    alike = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]]
    boxes = np.array([*alike, [50, 50, 60, 60], [0, 0, 4, 4]])
    assert sorted(best_of_each(boxes, np.array([0.5, 0.9, 0.7, 0.6, 0.1, 0.2]))) == [1, 2, 3, 4, 5]
    assert best_of_each(np.empty((0, 4)), np.empty(0)).size == 0
