"""Proves: grids, crops, NMS, patches and cleaning give what segment_anything, torchvision and pycocotools
give."""

from __future__ import annotations

import numpy as np
import pytest
import segment_anything.utils.amg as amg
import torch
from automatic_pair import blobby_photo, tiny_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms as torchvision_nms

from anymask.core.errors import OptionError, PromptError
from anymask.core.geometry import Frame
from anymask.core.rle import decode_one, encode_one
from anymask.core.types import PromptBatch
from anymask.model.upscale import upscale_logits
from anymask.predict import patches
from anymask.predict.cleanup import clean
from anymask.predict.crops import crop_windows
from anymask.predict.filters import cut_off_by_crop, nms, stability
from anymask.predict.focus import Focus
from anymask.predict.grid import build_layer_grids, build_point_grid, check_point_grids, spread_order
from anymask.predict.hierarchy import label_map, parents
from anymask.predict.patches import PatchUpscaler, encode_patch
from anymask.predict.segmenter import TorchSegmenter

sizes = st.integers(1, 40)


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_grid(n: int) -> None:
    assert np.array_equal(build_point_grid(n), amg.build_point_grid(n))


def test_layer_grids() -> None:
    ours, theirs = build_layer_grids(9, 2, 2), amg.build_all_layer_point_grids(9, 2, 2)
    assert [g.tolist() for g in ours] == [g.tolist() for g in theirs]
    with pytest.raises(OptionError, match="leaves no point"):
        build_layer_grids(2, 2, 2)
    with pytest.raises(OptionError, match="needs 2 grids"):
        check_point_grids([np.zeros((1, 2))], 1)
    with pytest.raises(OptionError, match="in 0 … 1"):
        check_point_grids([np.array([[3.0, 4.0]])], 0)
    assert sorted(spread_order(50)) == list(range(50))


@given(st.integers(40, 3000), st.integers(40, 3000), st.integers(0, 3), st.floats(0, 0.6))
def test_crops(height: int, width: int, layers: int, ratio: float) -> None:
    boxes, indices = amg.generate_crop_boxes((height, width), layers, ratio)
    crops = crop_windows((height, width), layers, ratio)
    real = [i for i, (x0, y0, x1, y1) in enumerate(boxes) if x0 < x1 and y0 < y1]  # official code may cut empty ones
    assert [list(c.box_xyxy) for c in crops] == [boxes[i] for i in real]
    assert [c.layer for c in crops] == [indices[i] for i in real]


def test_crops_of_one_pixel_are_never_empty() -> None:
    assert all(min(c.hw) > 0 for c in crop_windows((1, 1), 3, 0.3))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_nms_is_torchvisions(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 20, (count, 2))], axis=1).astype(np.float32)
    scores = rng.integers(0, 5, count).astype(np.float32)  # many ties
    theirs = torchvision_nms(torch.as_tensor(boxes), torch.as_tensor(scores), threshold)
    assert nms(boxes, scores, threshold).tolist() == theirs.tolist()


def test_stability() -> None:
    logits = torch.randn(5, 30, 40, generator=torch.Generator().manual_seed(0))
    theirs = amg.calculate_stability_score(logits, 0.0, 1.0)
    assert [stability(x.numpy(), 0.0, 1.0) for x in logits] == theirs.tolist()
    assert np.isnan(stability(np.full((2, 2), -9.0), 0.0, 1.0))


def test_cut_off_by_crop() -> None:
    rng = np.random.default_rng(0)
    crop, hw = (30, 40, 130, 140), (150, 200)
    corner = rng.integers(0, 50, (200, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 50, (200, 2))], axis=1)
    theirs = amg.is_box_near_crop_edge(torch.as_tensor(boxes), list(crop), [0, 0, hw[1], hw[0]])
    ours = cut_off_by_crop(boxes + [30, 40, 30, 40], crop, hw)
    assert ours.tolist() == theirs.tolist() and 0 < ours.sum() < 200


@settings(deadline=None)
@given(sizes, sizes, st.integers(0, 2**32), st.sampled_from([0.0, 0.25, 2.0]))
def test_patches_hold_all_that_exceeds_the_level(height: int, width: int, seed: int, small: float) -> None:
    rng = np.random.default_rng(seed)
    frame = Frame.of((height, width), 64)
    low_res = rng.normal(-2, 2, (16, 16)).astype(np.float32)
    low_res[rng.random((16, 16)) < 0.8] = -5
    whole = upscale_logits(torch.from_numpy(low_res)[None, None], 64, frame.input_hw, frame.original_hw)[0, 0]
    before, patches._SMALL = patches._SMALL, small
    patch = PatchUpscaler(frame, (16, 16)).above(low_res, -1.0)
    patches._SMALL = before
    seen = np.full((height, width), -9.0, dtype=np.float32)
    h, w = patch.values.shape
    seen[patch.top : patch.top + h, patch.left : patch.left + w] = patch.values
    assert not ((whole.numpy() > -1 + 1e-5) & (seen == -9)).any()
    np.testing.assert_allclose(np.maximum(seen, -1), np.maximum(whole.numpy(), -1), atol=2e-5)


@given(sizes, sizes, st.integers(0, 2**32), st.floats(0, 1), st.booleans())
def test_patch_run_lengths_are_those_of_the_whole(
    height: int, width: int, seed: int, fill: float, fortran: bool
) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
    mask = rng.random((y[1] - y[0], x[1] - x[0])) <= fill
    whole = np.zeros((height, width), dtype=bool)
    whole[y[0] : y[1], x[0] : x[1]] = mask
    patch = np.asfortranarray(mask) if fortran else mask
    assert encode_patch(patch, int(y[0]), int(x[0]), (height, width)) == encode_one(whole)


@settings(deadline=None)
@given(sizes, sizes, st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 40))
def test_cleaning_is_the_official_one(height: int, width: int, seed: int, fill: float, area: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < fill
    theirs, filled = amg.remove_small_regions(mask, area, "holes")
    theirs, removed = amg.remove_small_regions(theirs, area, "islands")
    ours = clean(encode_one(mask), area, drop_small=False)
    assert ours.rle == encode_one(theirs)
    assert ours.changed == (filled or removed)
    assert ours.num_px == theirs.sum()
    assert list(ours.box_xyxy) == amg.batched_mask_to_box(torch.as_tensor(theirs)).tolist()


def test_the_paper_drops_masks_of_small_islands_only() -> None:
    mask = np.zeros((50, 50), dtype=bool)
    mask[10:14, 10:14] = mask[30:33, 30:33] = True
    assert clean(encode_one(mask), 100, drop_small=False).num_px == 16
    assert clean(encode_one(mask), 100, drop_small=True).num_px == 0
    assert clean(encode_one(np.zeros((50, 50), bool)), 100, drop_small=True).num_px == 0


def square(x0: int, y0: int, x1: int, y1: int) -> dict:
    mask = np.zeros((60, 60), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return encode_one(mask)


def test_parents_are_the_smallest_that_contain() -> None:
    rles = [square(5, 5, 10, 10), square(0, 0, 50, 50), square(2, 2, 20, 20), square(40, 40, 60, 60)]
    assert parents(rles) == [2, None, 1, None]
    assert parents([square(0, 0, 9, 9)] * 3) == [None, 0, 1]
    assert parents([]) == [] and parents([square(0, 0, 0, 0)] * 2) == [None, None]


def test_label_map_is_disjoint_and_shows_small_masks() -> None:
    rles = [square(5, 5, 10, 10), square(0, 0, 50, 50)]
    scores = [0.1, 0.9]
    records = [
        {"segmentation": r, "area": int(decode_one(r).sum()), "predicted_iou": s} for r, s in zip(rles, scores)
    ]
    labels = label_map(records, (60, 60))
    assert labels[7, 7] == 1 and labels[30, 30] == 2 and labels[55, 55] == 0
    assert label_map(records, (60, 60), by="predicted_iou")[7, 7] == 2
    assert not label_map([], (3, 4)).any()
    with pytest.raises(OptionError, match="area, predicted_iou"):
        label_map(records, (60, 60), by="size")


def test_focus_refuses_what_is_outside() -> None:
    with pytest.raises(PromptError, match="no pixel"):
        Focus.of((10, 10), (5, 5, 5, 9), None, None)
    with pytest.raises(PromptError, match="region must be"):
        Focus.of((10, 10), np.ones((3, 3), bool), None, None)
    with pytest.raises(PromptError, match="inside the photo of 20×10"):
        Focus.of((10, 20), None, [(25, 5)], None)


def test_prompts_without_a_promising_mask_are_not_upscaled_and_the_others_stay_as_they_are() -> None:
    sam, _ = tiny_pair()
    segmenter = TorchSegmenter(sam)
    (embedding,) = segmenter.encode([blobby_photo()])
    points = np.random.default_rng(0).uniform(0, 256, (40, 1, 2)).astype(np.float32)
    plain = segmenter.decode(embedding, PromptBatch(points, np.ones((40, 1))), True)
    best = plain.predicted_iou.max(dim=1).values
    level = float(best.median())
    filtered = segmenter.decode(embedding, PromptBatch(points, np.ones((40, 1)), min_iou=level), True)
    wanted = best > level
    assert 0 < wanted.sum() < 40
    assert torch.equal(filtered.predicted_iou, plain.predicted_iou)
    torch.testing.assert_close(filtered.low_res[wanted], plain.low_res[wanted])
    assert not filtered.low_res[~wanted].any()
