"""Proves: the numbers of the point-to-mask evaluation, on masks whose IoU is known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from anymask.core.rle import encode_one
from anymask.data.readers import Photo
from anymask.evaluate.metrics import iou_of_candidates
from anymask.evaluate.point_to_mask import MaskScore, Protocol, chosen_masks, evaluate_photos, summarise
from anymask.model.sam import Sam
from anymask.predict.predictor import SamPredictor


def test_iou_by_hand() -> None:
    truth = np.zeros((2, 4, 4), bool)
    truth[0, :2] = True
    candidates = np.zeros((2, 3, 4, 4), bool)
    candidates[0, 0, :2] = True
    candidates[0, 1, 1:3] = True
    iou = iou_of_candidates(candidates, truth)
    np.testing.assert_allclose(iou, [[1, 4 / 12, 0], [0, 0, 0]])


def photo_with(masks: list[np.ndarray], image: np.ndarray, name: str, source: str) -> Photo:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return Photo(name, source, file.getvalue(), masks[0].shape, [encode_one(m) for m in masks])


def test_small_masks_are_skipped_and_the_rest_spread(photo: np.ndarray) -> None:
    masks = []
    for size in (5, 12, 14, 16, 18, 20):
        mask = np.zeros(photo.shape[:2], bool)
        mask[:size, :size] = True
        masks.append(mask)
    one = photo_with(masks, photo, "a", "s")
    assert [m.sum() for m in chosen_masks(one, Protocol())] == [144, 196, 256, 324, 400]
    assert [m.sum() for m in chosen_masks(one, Protocol(max_masks=3))] == [144, 256, 400]
    assert chosen_masks(one, Protocol(min_area_px=1000)).shape == (0, *photo.shape[:2])


def test_every_mask_gets_both_prompts(lite_random: Sam, photo: np.ndarray) -> None:
    disc = photo[..., 0] > 150
    photos = [photo_with([disc, ~disc], photo, f"p{i}", "s") for i in range(3)]
    scores = evaluate_photos(SamPredictor(lite_random), photos, Protocol(max_photos=2))
    assert len(scores) == 2 * 2 * 2
    assert {(s.prompt, s.area) for s in scores} == {(p, int(m.sum())) for p in ("click", "box") for m in (disc, ~disc)}
    assert all(0 <= s.selected <= s.oracle <= 1 for s in scores)


def test_sets_weigh_the_same() -> None:
    scores = [MaskScore("a", "p", k, 1, 1.0, 0.5) for k in ("click", "box")] * 3
    scores += [MaskScore("davis", "p", k, 1, 0.0, 0.0) for k in ("click", "box")]
    table = summarise(scores)
    assert table["mean"]["click_oracle"] == 50 and table["mean"]["masks"] == 4
    assert table["same-domain"]["box_selected"] == 50 and table["zero-shot"]["box_oracle"] == 0
    assert table["a"]["click_oracle"] == pytest.approx(100)
