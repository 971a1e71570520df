"""Proves: `SamAutomaticMaskGenerator` gives the official generator's records, one by one, and its own options
work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import segment_anything
from automatic_pair import BlobSegmenter, OfficialBlobs, blobby_photo, tiny_pair
from pycocotools import mask as coco

from anymask.core.errors import ImageError, OptionError
from anymask.core.rle import decode_one
from anymask.predict import candidates
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.options import AutomaticOptions
from anymask.predict.predictor import SamPredictor

LOOSE = {"points_per_side": 8, "stability_score_thresh": 0.6}
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def photo_of_blobs() -> np.ndarray:
    return blobby_photo()


def official(image: np.ndarray, **options: Any) -> Records:
    generator = segment_anything.SamAutomaticMaskGenerator(tiny_pair()[1], **options)
    generator.predictor = OfficialBlobs()
    return generator.generate(image)


def ours(image: np.ndarray, **options: Any) -> Records:
    return SamAutomaticMaskGenerator(BlobSegmenter(), **options).generate(image)


def assert_same_records(a: Records, b: Records, ties_px: int = 0) -> None:
    """Equal keys, order and values; masks up to `ties_px` pixels whose logit is within rounding of a
    level."""
    assert len(a) == len(b)
    for one, other in zip(a, b):
        assert list(one) == list(other)
        masks = [r["segmentation"] for r in (one, other)]
        if isinstance(masks[0], dict):
            if not ties_px:
                assert masks[0] == masks[1]
            masks = [decode_one(m) for m in masks]
        assert masks[0].dtype == masks[1].dtype == bool
        assert (masks[0] != masks[1]).sum() <= ties_px
        assert abs(one["area"] - other["area"]) <= ties_px
        for key in ("bbox", "crop_box", "point_coords"):
            assert one[key] == other[key], key
        for key in ("predicted_iou", "stability_score"):
            assert one[key] == pytest.approx(other[key], abs=1e-3 if ties_px else 0), key


GRIDS = [np.random.default_rng(i).random((20, 2)) for i in range(2)]
COMBINATIONS: dict[str, dict[str, Any]] = {
    "loose": {},
    "strict": {"stability_score_thresh": 0.95},
    "no filters": {"stability_score_thresh": 0.0, "pred_iou_thresh": 0.0},
    "one crop layer": {"crop_n_layers": 1},
    "two crop layers, coarser": {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
    "clean": {"min_mask_region_area": 100},
    "crops, clean, rle": {"crop_n_layers": 1, "min_mask_region_area": 60, "output_mode": "coco_rle"},
    "uncompressed": {"output_mode": "uncompressed_rle"},
    "own grids": {"points_per_side": None, "point_grids": GRIDS, "crop_n_layers": 1},
    "overlap and nms": {"crop_n_layers": 1, "crop_overlap_ratio": 0.1, "box_nms_thresh": 0.5, "crop_nms_thresh": 0.9},
    "offset and batch": {"stability_score_offset": 0.3, "points_per_batch": 5},
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_records_are_the_official_ones(photo_of_blobs: np.ndarray, name: str) -> None:
    options = {**LOOSE, **COMBINATIONS[name]}
    theirs = official(photo_of_blobs, **options)
    assert_same_records(ours(photo_of_blobs, **options), theirs, ties_px=1)
    assert len(theirs) >= (0 if name == "strict" else 20)


@pytest.mark.parametrize("layers", [0, 1])
def test_records_through_the_whole_model(photo: np.ndarray, layers: int) -> None:
    model, official_model = tiny_pair()
    options: dict[str, Any] = {
        "points_per_side": 4,
        "pred_iou_thresh": 0.05,
        "stability_score_thresh": 0.5,
        "box_nms_thresh": 1.0,
        "crop_nms_thresh": 1.0,
        "crop_n_layers": layers,
    }
    theirs = segment_anything.SamAutomaticMaskGenerator(official_model, **options).generate(photo)
    mine = SamAutomaticMaskGenerator(model, **options).generate(photo)
    assert len(theirs) == len(mine) >= 5

    def key(record: dict[str, Any]) -> tuple[Any, ...]:  # scores differ in the last bits, and so may the order
        return record["crop_box"], record["point_coords"], round(record["predicted_iou"], 3), record["area"]

    for a, b in zip(sorted(mine, key=key), sorted(theirs, key=key)):
        both, either = a["segmentation"] & b["segmentation"], a["segmentation"] | b["segmentation"]
        assert both.sum() / either.sum() >= 0.99
        for name in ("predicted_iou", "stability_score"):
            assert a[name] == pytest.approx(b[name], abs=1e-3)


def test_masks_let_go_for_memory_come_back(photo_of_blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ours(photo_of_blobs, **LOOSE, crop_n_layers=1)
    monkeypatch.setattr(candidates, "HELD_BYTES", 0)
    assert_same_records(ours(photo_of_blobs, **LOOSE, crop_n_layers=1), before)


def test_defaults_are_the_official_ones() -> None:
    import inspect

    theirs = inspect.signature(segment_anything.SamAutomaticMaskGenerator).parameters
    mine = inspect.signature(SamAutomaticMaskGenerator).parameters
    assert list(mine)[: len(theirs)] == list(theirs)
    assert all(mine[name].default == theirs[name].default for name in theirs)


def test_paper_preset(photo_of_blobs: np.ndarray) -> None:
    options = SamAutomaticMaskGenerator(BlobSegmenter(), preset="paper").options
    assert (options.points_per_side, options.crop_n_layers, options.min_mask_region_area) == (32, 2, 100)
    generator = SamAutomaticMaskGenerator(BlobSegmenter(), preset="paper")
    assert [len(g) for g in generator.point_grids] == [32**2, 16**2, 8**2]
    records = ours(photo_of_blobs, preset="paper", points_per_side=8, stability_score_thresh=0.5)
    height, width = photo_of_blobs.shape[:2]
    assert records and all(100 <= r["area"] < 0.95 * height * width for r in records)
    assert isinstance(records[0]["segmentation"]["counts"], str)


def test_area_limits(photo_of_blobs: np.ndarray) -> None:
    everything = ours(photo_of_blobs, **LOOSE)
    limit = sorted(r["area"] for r in everything)[len(everything) // 2]
    assert max(r["area"] for r in ours(photo_of_blobs, **LOOSE, max_mask_region_area=limit)) <= limit


def test_granularity_orders_the_three_candidates(photo_of_blobs: np.ndarray) -> None:
    loose = {**LOOSE, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    areas = {}
    for granularity in ("subpart", "part", "whole"):
        records = ours(photo_of_blobs, **loose, granularity=granularity)
        areas[granularity] = {tuple(r["point_coords"][0]): r["area"] for r in records}
        assert len(records) == len(areas[granularity]) == 64
    for point in areas["part"]:
        assert areas["subpart"][point] <= areas["part"][point] <= areas["whole"][point]


def test_parents_and_low_res(photo_of_blobs: np.ndarray) -> None:
    records = ours(photo_of_blobs, **LOOSE, parents=True, return_low_res=True, output_mode="coco_rle")
    assert any(r["parent"] is not None for r in records)
    for record in records:
        if record["parent"] is not None:
            parent = records[record["parent"]]
            inside = coco.iou([record["segmentation"]], [parent["segmentation"]], [1])[0, 0]
            assert inside >= 0.9 and parent["area"] >= record["area"]
        assert record["low_res_logits"].shape == (64, 64) and (record["low_res_logits"] > 0).any()


def test_region_and_points(photo_of_blobs: np.ndarray) -> None:
    generator = SamAutomaticMaskGenerator(BlobSegmenter(), **LOOSE)
    everything = generator.generate(photo_of_blobs)
    within = generator.generate(photo_of_blobs, region=(0, 0, 100, 150))
    assert 0 < len(within) < len(everything)
    assert all(r["segmentation"][:, :100].sum() >= 0.5 * r["area"] for r in within)
    near = generator.generate(photo_of_blobs, near_points=[(30, 30)], near_px=10)
    assert 0 < len(near) < len(everything)
    for x, y, w, h in (r["bbox"] for r in near):
        assert x - 10 <= 30 <= x + w + 10 and y - 10 <= 30 <= y + h + 10


def test_progress_and_time_budget(photo_of_blobs: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    generator = SamAutomaticMaskGenerator(BlobSegmenter(), **LOOSE)
    generator.generate(photo_of_blobs, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (64, 64)
    seen.clear()
    generator.generate(photo_of_blobs, time_budget_s=0, progress=lambda *step: seen.append(step))
    assert seen[0] == (16, 64) and seen[-1][0] == 16


def test_no_mask_is_a_valid_answer(photo_of_blobs: np.ndarray) -> None:
    for options in ({}, {"crop_n_layers": 2}, {"min_mask_region_area": 10}, {"preset": "paper"}):
        assert ours(photo_of_blobs, **{"points_per_side": 4, "pred_iou_thresh": 9.0, **options}) == []


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (3, 2)])
def test_tiny_photos(hw: tuple[int, int]) -> None:
    options = {"points_per_side": 4, "stability_score_thresh": 0.0, "crop_n_layers": 2}
    for record in ours(np.zeros((*hw, 3), np.uint8), **options):
        assert record["segmentation"].shape == hw


def test_any_kind_of_model_and_picture(photo: np.ndarray) -> None:
    model, _ = tiny_pair()
    for kind in (model, SamPredictor(model)):
        assert SamAutomaticMaskGenerator(kind, points_per_side=1, crop_n_layers=1).generate(photo[..., 0]) == []
    with pytest.raises(ImageError):
        ours(np.zeros((4, 4, 7), np.uint8))
    with pytest.raises(OptionError, match="got dict"):
        SamAutomaticMaskGenerator({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "points_per_side must be a whole number from 1 up, got 0"),
        ({"points_per_side": 2.5}, "points_per_side"),
        ({"points_per_side": None}, "give points_per_side or point_grids"),
        ({"point_grids": GRIDS}, "give points_per_side or point_grids"),
        ({"points_per_batch": 0}, "points_per_batch"),
        ({"crop_n_layers": -1}, "crop_n_layers"),
        ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor"),
        ({"box_nms_thresh": 1.5}, "box_nms_thresh must be a number from 0 to 1, got 1.5"),
        ({"stability_score_offset": -1}, "stability_score_offset"),
        ({"pred_iou_thresh": float("nan")}, "pred_iou_thresh"),
        ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio"),
        ({"output_mode": "png"}, "binary_mask, uncompressed_rle, coco_rle"),
        ({"granularity": "hole"}, "Did you mean 'whole'"),
        ({"preset": "papr"}, "Did you mean 'paper'"),
        ({"max_coverage": 2}, "max_coverage"),
        ({"min_mask_region_area": -1}, "min_mask_region_area"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SamAutomaticMaskGenerator(BlobSegmenter(), **options)


def test_unknown_option_by_name() -> None:
    with pytest.raises(OptionError, match="Did you mean 'points_per_side'"):
        AutomaticOptions.of(points_per_sde=3)
