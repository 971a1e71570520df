"""Zoom: where it looks, how prompts and masks travel between photo and crop, and that it helps on small things."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask import SamAutomaticMaskGenerator, SamPredictor, load_model
from anymask.core.errors import StateError
from anymask.core.geometry import Frame
from anymask.core.masks import mask_iou
from anymask.core.rle import encode_one
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.model.presets import build_sam
from anymask.predict.candidates import Candidate
from anymask.predict.crops import Crop
from anymask.predict.options import AutomaticOptions
from anymask.predict.prompts import check_prompts
from anymask.predict.refine import refine
from anymask.predict.zoom import OUTSIDE, Look, Zoom, window_around

RED = (220, 40, 40)


class RedFinder:
    """A `Segmenter` that marks what is red in what it is shown; low-resolution logits of 32 px, a side of 64 px."""

    side, mask_threshold, low_res_hw = 64, 0.0, (32, 32)

    def __init__(self) -> None:
        self.asked: list[PromptBatch] = []

    def encode(self, images):
        frames = [Frame.of(image.shape[:2], self.side) for image in images]
        return [Embedding(self._red(image, frame), frame) for image, frame in zip(images, frames)]

    def _red(self, image, frame):
        red = torch.from_numpy((image[..., 0] > 128) & (image[..., 1] < 128)).float()[None, None]
        square = torch.zeros(1, 1, self.side, self.side)
        height, width = frame.input_hw
        square[..., :height, :width] = torch.nn.functional.interpolate(red, (height, width), mode="area")
        return 20 * torch.nn.functional.interpolate(square, self.low_res_hw, mode="area") - 10

    def decode(self, embedding, prompts, multimask):
        self.asked.append(prompts)
        kinds = (prompts.points_xy, prompts.boxes_xyxy, prompts.mask_logits)
        count = next(len(kind) for kind in kinds if kind is not None)
        low_res = embedding.features.expand(count, 3 if multimask else 1, -1, -1)
        return MaskBatch(low_res, torch.tensor([0.9, 0.8, 0.7])[: low_res.shape[1]].expand(count, -1))


@pytest.fixture(scope="module")
def lite():
    return SamPredictor(load_model("lite"))


def photo_with(discs, height=400, width=600):
    """A grey photo with red discs (x, y, radius), and their masks."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 120, np.uint8)
    masks = [(x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy, radius in discs]
    for mask in masks:
        image[mask] = RED
    return image, masks


@given(
    st.integers(1, 4000), st.integers(1, 3000), st.lists(st.floats(-0.2, 1.2), min_size=4, max_size=4),
    st.sampled_from([64, 384, 1024]), st.floats(1.0, 3.0),
)  # fmt: skip
def test_a_window_holds_its_box_and_lies_in_the_photo(width, height, shares, side, margin):
    frame = Frame.of((height, width), side)
    x0, x1 = sorted(share * width for share in shares[:2])
    y0, y1 = sorted(share * height for share in shares[2:])
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return  # refused by `check_prompts`
    window = window_around(np.array([x0, y0, x1, y1]), frame, side, margin)
    if window is None:
        longer = max(min(x1, width) - max(x0, 0), min(y1, height) - max(y0, 0))
        assert side / max(48, margin * (longer + 3)) <= max(frame.scale_xy), "a closer look was to be had"
        return
    left, top, right, bottom = window
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert left <= max(x0, 0) and top <= max(y0, 0) and right >= min(x1, width) and bottom >= min(y1, height)
    assert side / max(right - left, bottom - top) >= side / max(width, height)  # no coarser than the photo


def test_small_things_are_seen_sharply_and_in_their_place():
    image, (small, _) = photo_with([(511, 93, 9), (250, 200, 240)])
    finder = RedFinder()
    (embedding,) = finder.encode([image])
    prompts = check_prompts(embedding.frame, finder.low_res_hw, box=np.array([[502, 84, 520, 102], [10, 0, 490, 400]]))
    looks = Zoom(finder, image, embedding).decode(prompts.batch, True)
    assert (looks[0].left, looks[0].top) != (0, 0) and looks[0].frame.original_hw == (48, 48)
    found = np.zeros(image.shape[:2], bool)
    patch = looks[0].patches(0.0)[0]
    height, width = patch.values.shape
    found[patch.top : patch.top + height, patch.left : patch.left + width] = patch.values > 0
    assert mask_iou(found, small) > 0.9
    assert looks[1].frame == embedding.frame, "a crop would show no more of something this large"


def test_prompts_move_into_the_crop():
    image, _ = photo_with([(511, 93, 9)])
    finder = RedFinder()
    (embedding,) = finder.encode([image])
    points = np.array([[[511.0, 93.0], [40.0, 380.0]]])
    labels, box = np.array([[1, 0]]), np.array([502, 84, 520, 102])
    prompts = check_prompts(embedding.frame, finder.low_res_hw, points, labels, box)
    (look,) = Zoom(finder, image, embedding).decode(prompts.batch, False)
    asked = finder.asked[-1]
    scale_x, scale_y = look.frame.scale_xy
    assert scale_x == scale_y
    place = np.array([look.left, look.top])
    np.testing.assert_allclose(asked.points_xy[0, 0], (points[0, 0] - place) * scale_x, rtol=1e-5)
    np.testing.assert_allclose(asked.boxes_xyxy[0], (box - np.tile(place, 2)) * scale_x, rtol=1e-5)
    assert asked.labels.tolist() == [[1, -1]], "a background click beyond the crop says nothing there"


def test_logits_come_back_to_the_photo_where_they_were():
    image, (disc,) = photo_with([(300, 200, 60)])
    finder = RedFinder()
    (embedding,) = finder.encode([image])
    frame = Frame.of((200, 240), finder.side)
    (crop,) = finder.encode([image[100:300, 180:420]])
    back = Look(crop.features.numpy()[0], np.ones(1), frame, 180, 100).on(embedding.frame, finder.low_res_hw)
    direct = embedding.features.numpy()[0]
    assert ((back > 0) != (direct > 0)).mean() < 0.01
    assert back[0, 0, 0] == OUTSIDE


def test_zoom_of_the_predictor_is_consistent():
    image, (small, _) = photo_with([(511, 93, 12), (150, 200, 120)])
    predictor = SamPredictor(RedFinder(), max_hole_area=4)
    predictor.set_image(image)
    boxes = np.array([[499, 81, 523, 105], [30, 80, 270, 320]])
    masks, iou, low_res = predictor.predict(box=boxes, zoom=True)
    assert masks.shape == (2, 3, 400, 600) and masks.dtype == bool and iou.shape == (2, 3)
    assert low_res.shape == (2, 3, 32, 32)
    logits, *_ = predictor.predict(box=boxes, zoom=True, return_logits=True)
    assert logits.dtype == np.float32
    assert ((logits > 0) != masks).mean() < 1e-4
    again, _, _ = predictor.predict(mask_input=low_res[0, :1], multimask_output=False, zoom=True)
    assert mask_iou(again[0], small) > 0.85
    alone, *_ = predictor.predict(box=boxes[0], zoom=True)
    np.testing.assert_array_equal(alone, masks[0])


def test_an_empty_first_answer_stays_an_answer():
    image = np.full((300, 300, 3), 120, np.uint8)
    predictor = SamPredictor(RedFinder())
    predictor.set_image(image)
    masks, *_ = predictor.predict(np.array([[5, 5]]), np.array([1]), zoom=True)
    assert masks.shape == (3, 300, 300) and not masks.any()


def test_no_prompt_is_answered_as_without_zoom(lite):
    image, _ = photo_with([(100, 100, 20)])
    lite.set_image(image)
    for plain, zoomed in zip(lite.predict(), lite.predict(zoom=True)):
        np.testing.assert_array_equal(plain, zoomed)


def test_without_the_photo_zoom_says_what_to_do(lite):
    image, _ = photo_with([(100, 100, 20)])
    predictor = SamPredictor(lite.segmenter)
    predictor.set_embedding(lite.segmenter.encode([image])[0])
    with pytest.raises(StateError, match="set_image"):
        predictor.predict(np.array([[100, 100]]), np.array([1]), zoom=True)


def test_the_twin_for_crops_shares_weights_and_is_the_model_at_that_side(lite):
    twin = lite.segmenter.for_crops()
    assert twin.side == 384 and lite.segmenter.side == 512 and lite.segmenter.sam.image_encoder.img_size == 512
    assert twin.low_res_hw == (192, 192) and lite.segmenter.low_res_hw == (256, 256)
    own, shared = dict(lite.segmenter.sam.named_parameters()), dict(twin.sam.named_parameters())
    assert all(own[name] is shared[name] for name in own)
    other = build_sam("lite", 384)
    other.load_state_dict(lite.segmenter.sam.state_dict())
    pixels = torch.rand(1, 3, 384, 384)
    with torch.no_grad():
        torch.testing.assert_close(twin.sam.encode(pixels), other.encode(pixels))
    torch.testing.assert_close(twin.sam.prompt_encoder.get_dense_pe(), other.prompt_encoder.get_dense_pe())


def test_zoom_helps_lite_on_small_things(lite):
    image, masks = photo_with([(211, 143, 11), (900, 700, 14), (1000, 90, 16)], 800, 1200)
    lite.set_image(image)
    boxes = np.array([[x - r, y - r, x + r, y + r] for x, y, r in ((211, 143, 11), (900, 700, 14), (1000, 90, 16))])
    quality = {}
    for zoom in (False, True):
        found, iou, _ = lite.predict(box=boxes, zoom=zoom)
        best = found[np.arange(3), iou.argmax(1)]
        quality[zoom] = np.mean([mask_iou(a, b) for a, b in zip(best, masks)])
    assert quality[True] > quality[False]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_any_size_and_any_click(width, height, share_x, share_y):
    predictor = SamPredictor(RedFinder())
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    predictor.set_image(image)
    point = np.array([[share_x * width, share_y * height]])
    masks, iou, low_res = predictor.predict(point, np.array([1]), zoom=True)
    assert masks.shape == (3, height, width) and np.isfinite(iou).all() and low_res.shape == (3, 32, 32)


def test_automatic_masks_of_small_things_become_sharper():
    image, (small,) = photo_with([(377, 263, 26)])
    quality = {}
    for zoom in (False, True):
        generator = SamAutomaticMaskGenerator(
            RedFinder(), points_per_side=2, pred_iou_thresh=0.5, stability_score_thresh=0, zoom=zoom
        )
        (record,) = generator.generate(image)
        quality[zoom] = mask_iou(record["segmentation"], small)
        assert record["area"] == record["segmentation"].sum()
        x, y, width, height = record["bbox"]
        assert record["segmentation"][y : y + height + 1, x : x + width + 1].sum() == record["area"]
    assert quality[True] > 0.9 > quality[False]


def test_refining_keeps_what_a_closer_look_does_not_know():
    image, _ = photo_with([(377, 263, 9)])
    finder = RedFinder()
    corner = np.pad(np.ones((31, 31), bool), ((0, 369), (0, 569)))
    found = Candidate(0.9, 1.0, (0, 0, 30, 30), 961, (15.0, 15.0), (15.0, 15.0), 0,
                      Crop((0, 0, 600, 400), 0), None, encode_one(corner))  # fmt: skip
    assert refine(finder, image, [found], AutomaticOptions(stability_score_thresh=0)) == [found], "nothing red there"
    assert refine(finder, image, [found], AutomaticOptions(), lambda: True) == [found]
