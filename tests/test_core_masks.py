"""Masks: clean-up and boxes as in segment_anything, the centre click, a mask as a prompt."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from segment_anything.utils import amg
from torch.nn import functional as F

from anymask.core.errors import InputError, OptionError, PromptError
from anymask.core.geometry import Frame
from anymask.core.masks import (
    center_click,
    fill_holes_and_sprinkles,
    mask_boxes,
    mask_iou,
    mask_to_logits,
    pairwise_iou,
    remove_small_regions,
)

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))


def disc(hw: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    down, right = np.ogrid[: hw[0], : hw[1]]
    return (right - x) ** 2 + (down - y) ** 2 <= radius**2


@calm
@given(masks, st.integers(0, 60), st.sampled_from(["holes", "islands"]))
def test_small_regions_go_as_in_segment_anything(mask: np.ndarray, area: int, mode: str) -> None:
    theirs, their_change = amg.remove_small_regions(mask, area, mode)
    ours, our_change = remove_small_regions(mask, area, mode)
    assert ours.dtype == bool
    assert np.array_equal(ours, theirs)
    assert our_change == their_change


def test_the_largest_island_stays() -> None:
    mask = disc((40, 40), 10, 10, 3) | disc((40, 40), 30, 30, 5)
    cleaned, changed = remove_small_regions(mask, 1000, "islands")
    assert changed
    assert np.array_equal(cleaned, disc((40, 40), 30, 30, 5))


@pytest.mark.parametrize("mode", ["holes", "islands"])
@pytest.mark.parametrize("value", [False, True])
def test_plain_masks_are_left_alone(mode: str, value: bool) -> None:
    mask = np.full((12, 12), value)
    cleaned, changed = remove_small_regions(mask, 100, mode)
    assert (cleaned is mask, changed) == (True, False)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(OptionError, match="'specks'"):
        remove_small_regions(np.ones((2, 2), bool), 1, "specks")


def test_holes_and_sprinkles_up_to_the_limit() -> None:
    mask = disc((60, 60), 25, 25, 20)
    mask[20:22, 20:22] = False  # a hole of 4
    mask[30:33, 30:33] = False  # a hole of 9
    mask[55, 55:58] = True  # a sprinkle of 3
    both = np.stack([mask, mask])
    filled = fill_holes_and_sprinkles(both, max_hole_area=4, max_sprinkle_area=2)
    assert filled[0, 20:22, 20:22].all()
    assert not filled[0, 30:33, 30:33].any()
    assert filled[0, 55, 55:58].all()
    assert not fill_holes_and_sprinkles(both, 0, 3)[1, 55].any()
    assert np.array_equal(fill_holes_and_sprinkles(both, 0, 0), both)
    assert not mask[20, 20], "the input must not change"


@calm
@given(masks, st.integers(0, 30), st.integers(0, 30))
def test_holes_and_sprinkles_against_a_slow_reference(mask: np.ndarray, hole: int, sprinkle: int) -> None:
    expected = mask.copy()
    for value, limit in ((False, hole), (True, sprinkle)):
        count, labels = cv2.connectedComponents((mask == value).astype(np.uint8), connectivity=8)
        for label in range(1, count):
            if (labels == label).sum() <= limit:
                expected[labels == label] = not value
    assert np.array_equal(fill_holes_and_sprinkles(mask[None], hole, sprinkle)[0], expected)


@settings(calm, max_examples=30)
@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=12)))
def test_boxes_as_in_segment_anything(stack: np.ndarray) -> None:
    theirs = amg.batched_mask_to_box(torch.from_numpy(stack))
    ours = mask_boxes(stack)
    assert ours.shape == (len(stack), 4)
    assert ours.tolist() == theirs.tolist()


def test_boxes_of_nothing() -> None:
    assert mask_boxes(np.zeros((0, 5, 5), bool)).shape == (0, 4)
    assert mask_boxes(np.zeros((1, 5, 5), bool)).tolist() == [[0, 0, 0, 0]]


@settings(calm, max_examples=50)
@given(masks.filter(np.any))
def test_the_centre_is_the_pixel_farthest_from_the_boundary(mask: np.ndarray) -> None:
    x, y = center_click(mask)
    assert mask[y, x]
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    inside = np.argwhere(mask)
    squared = ((inside[:, None] - outside[None]) ** 2).sum(-1).min(1)
    at = (inside == (y, x)).all(1).argmax()
    assert squared[at] == squared.max()
    assert type(x) is int and type(y) is int


def test_the_image_border_is_a_boundary() -> None:
    half = disc((41, 41), 0, 20, 15)  # cut off at the left
    x, y = center_click(half)
    assert 15 <= y <= 25
    assert 5 <= x <= 9
    assert center_click(np.ones((5, 9), bool))[1] == 2


def test_an_empty_mask_has_no_centre() -> None:
    with pytest.raises(PromptError, match="empty"):
        center_click(np.zeros((4, 4), bool))


def upsampled(logits: np.ndarray, frame: Frame) -> np.ndarray:
    """What the model's post-processing makes of low-resolution logits (PAPER §2.4)."""
    square = F.interpolate(torch.from_numpy(logits)[None], (frame.side, frame.side), mode="bilinear")
    crop = square[..., : frame.input_hw[0], : frame.input_hw[1]]
    return F.interpolate(crop, frame.original_hw, mode="bilinear")[0, 0].numpy() > 0


@pytest.mark.parametrize("hw", [(480, 640), (427, 640), (640, 333), (60, 80), (1500, 2000)])
def test_a_mask_prompt_keeps_the_shape(hw: tuple[int, int]) -> None:
    frame = Frame.of(hw, 1024)
    size = min(hw)
    mask = disc(hw, hw[1] * 0.4, hw[0] * 0.5, size * 0.3) & ~disc(hw, hw[1] * 0.4, hw[0] * 0.5, size * 0.1)
    logits = mask_to_logits(mask, frame)
    assert logits.shape == (1, 256, 256)
    assert logits.dtype == np.float32
    assert logits.min() == -10 and logits.max() == 10
    assert ((logits > -10) & (logits < 10)).any(), "soft edges"
    assert mask_iou(upsampled(logits, frame), mask) > 0.98


def test_padding_is_background_and_the_photo_fills_its_part() -> None:
    frame = Frame.of((480, 640), 1024)
    [logits] = mask_to_logits(np.ones((480, 640), bool), frame, strength=7)
    np.testing.assert_allclose(logits[:192], 7, atol=1e-5)
    assert (logits[192:] == -7).all()


def test_coverage_is_the_exact_area() -> None:
    frame = Frame.of((8, 8), 8)
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True  # a quarter of the left half, cells of 4×4
    [logits] = mask_to_logits(mask, frame, low_res_hw=(2, 2), strength=1)
    np.testing.assert_allclose(logits, [[0, -1], [-1, -1]], atol=1e-6)


@calm
@given(masks, st.sampled_from([(16, 16), (64, 64), (7, 9)]))
def test_area_is_kept(mask: np.ndarray, low_res_hw: tuple[int, int]) -> None:
    frame = Frame.of(mask.shape, 64)
    logits = mask_to_logits(mask, frame, low_res_hw, strength=1)
    covered = ((logits + 1) / 2).sum() * frame.side**2 / (low_res_hw[0] * low_res_hw[1])
    x, y = frame.scale_xy
    np.testing.assert_allclose(covered, mask.sum() * x * y, rtol=1e-3, atol=1e-2)


def test_a_mask_of_another_photo_is_refused() -> None:
    with pytest.raises(PromptError, match="480, 640"):
        mask_to_logits(np.ones((640, 480), bool), Frame.of((480, 640), 1024))


def test_pairwise_iou() -> None:
    left, right, all_, none = (np.zeros((4, 6), bool) for _ in range(4))
    left[:, :3] = right[:, 3:] = all_[:] = True
    found = pairwise_iou(np.stack([left, right, none]), np.stack([left, all_, none, right]))
    np.testing.assert_array_equal(found, [[1, 0.5, 0, 0], [0, 0.5, 0, 1], [0, 0, 0, 0]])
    assert pairwise_iou(np.zeros((0, 4, 6), bool), left[None]).shape == (0, 1)


def test_iou() -> None:
    a = np.zeros((4, 4), bool)
    b = a.copy()
    assert mask_iou(a, b) == 1.0
    a[:2] = True
    assert mask_iou(a, b) == 0.0
    b[1:3] = True
    assert mask_iou(a, b) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="same size"):
        mask_iou(a, b[:2])


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: remove_small_regions(bad, 5, "holes"),
        lambda bad: center_click(bad),
        lambda bad: mask_boxes(bad),
        lambda bad: fill_holes_and_sprinkles(bad, 1, 1),
        lambda bad: mask_iou(bad, bad),
    ],
)
@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros(4, bool), np.zeros((1, 1, 4, 4), bool)])
def test_what_is_not_a_mask_is_refused(call, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected"):
        call(bad)
