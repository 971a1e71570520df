"""Proves: the simulated annotator clicks where the mask is most wrong, and the IoU of each round is that of its mask.

A made-up segmenter answers from a script, so that every IoU and every click is known beforehand.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_evaluate import photo_with

from anymask.core.errors import InputError, OptionError
from anymask.core.geometry import Frame
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.evaluate.interactive import click_rounds, clicks_to_reach, first_clicks, next_click
from anymask.evaluate.point_to_mask import Protocol, evaluate_photos, summarise
from anymask.model.sam import Sam
from anymask.predict.predictor import SamPredictor

SIDE = 64


class Scripted:
    """Answers every prompt with the next masks of a script, each (H, W) at the model's own size."""

    side = SIDE
    mask_threshold = 0.0

    def __init__(self, script: list[list[np.ndarray]], iou: list[float]) -> None:
        self.script, self.iou, self.asked = script, iou, []

    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        return [Embedding(None, Frame.of(image.shape[:2], SIDE)) for image in images]

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        self.asked.append((prompts, multimask))
        masks = self.script[len(self.asked) - 1]
        logits = np.where(np.array(masks), 10.0, -10.0).astype(np.float32)[None]
        return MaskBatch(logits, np.array([self.iou[: len(masks)]], np.float32))


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_rounds_follow_the_script() -> None:
    truth = square(8, 8, 40, 40)
    left, both = square(8, 8, 24, 40), square(8, 8, 48, 40)
    segmenter = Scripted([[left, truth, both], [both], [truth], [square(0, 0, 1, 1)]], [0.9, 0.1, 0.2])
    embedding = segmenter.encode([np.zeros((SIDE, SIDE, 3), np.uint8)])[0]
    rounds = click_rounds(segmenter, embedding, truth[None], 4)
    np.testing.assert_allclose(rounds.selected, [[0.5, 0.8, 1, 1]])  # perfect after the third: it stays
    assert rounds.oracle.tolist() == [1]
    multimask = [many for _, many in segmenter.asked]
    assert multimask == [True, False, False, False]
    first, second, third, last = (prompts for prompts, _ in segmenter.asked)
    assert first.mask_logits is None and first.points_xy.tolist() == [[[23, 23]]]
    x, y = second.points_xy[0, 1]  # the missed right half
    assert 24 <= x < 40 and 8 <= y < 40 and second.labels.tolist() == [[1, 1]]
    assert ((second.mask_logits[0, 0] > 0) == left).all()  # the selected candidate is fed back, not the best
    x, y = third.points_xy[0, 2]  # too much at the right
    assert 40 <= x < 48 and third.labels.tolist() == [[1, 1, 0]]
    assert last.labels.tolist() == [[1, 1, 0, -1]]  # nothing is wrong any more


def test_the_click_is_the_deepest_pixel_of_the_deeper_error() -> None:
    truth = square(0, 0, 30, 30)
    assert next_click(square(0, 0, 30, 19), truth) == ((next_x := next_click(square(0, 0, 30, 19), truth)[0]), 1)
    assert 5 <= next_x[0] <= 24 and next_x[1] == 24  # rows 19 … 29 are missed
    mask = square(0, 0, 30, 27) | square(40, 40, 61, 61)
    assert next_click(mask, truth) == ((50, 50), 0)
    with pytest.raises(InputError, match="nothing to correct"):
        next_click(truth, truth)


def test_random_first_clicks_lie_in_the_mask_and_follow_the_seed() -> None:
    truth = np.stack([square(3, 4, 5, 60), square(50, 50, 64, 64)])
    drawn = {seed: first_clicks(truth, "random", seed) for seed in (0, 0, 1)}
    for points in drawn.values():
        assert all(mask[y, x] for mask, (x, y) in zip(truth, points))
    assert (drawn[0] == first_clicks(truth, "random", 0)).all() and (drawn[0] != drawn[1]).any()
    with pytest.raises(OptionError, match="center, random"):
        first_clicks(truth, "middle")


def test_number_of_clicks() -> None:
    iou = np.array([[0.5, 0.86, 0.8], [0.9, 0.95, 1], [0.1, 0.2, 0.3]])
    assert clicks_to_reach(iou, 0.85).tolist() == [2, 1, 3]


def test_an_answer_that_is_not_a_number_is_refused() -> None:
    truth = square(8, 8, 40, 40)
    segmenter = Scripted([[truth] * 3], [float("nan"), 0.1, 0.2])
    embedding = segmenter.encode([np.zeros((SIDE, SIDE, 3), np.uint8)])[0]
    with pytest.raises(InputError, match="NaN"):
        click_rounds(segmenter, embedding, truth[None], 2)


def test_together_as_one_by_one_and_first_click_as_without(lite_random: Sam, photo: np.ndarray) -> None:
    disc = photo[..., 0] > 150
    photos = [photo_with([disc, ~disc], photo, "p", "s")]
    scores = evaluate_photos(SamPredictor(lite_random), photos, Protocol(clicks=(1, 3)))
    by_prompt = {p: [s.selected for s in scores if s.prompt == p] for p in ("click", "clicks 1", "clicks 3")}
    np.testing.assert_allclose(by_prompt["click"], by_prompt["clicks 1"], atol=1e-9)
    predictor = SamPredictor(lite_random)
    predictor.set_image(photo)
    alone = [click_rounds(predictor.segmenter, predictor.embedding, m[None], 3).selected[0, 2] for m in (disc, ~disc)]
    np.testing.assert_allclose(by_prompt["clicks 3"], alone, atol=5e-3)
    assert summarise(scores)["s"]["clicks_3"] == pytest.approx(100 * np.mean(by_prompt["clicks 3"]))
