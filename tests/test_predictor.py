"""Proves: `SamPredictor` equals the official predictor call by call, keeps its promises on batches, embeddings, masks
and refinement, and refuses what it cannot use with a message that says why.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import segment_anything
import torch
from conftest import liven
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import MaskDecoder as OfficialDecoder
from segment_anything.modeling import PromptEncoder as OfficialPromptEncoder
from segment_anything.modeling import Sam as OfficialSam
from segment_anything.modeling import TwoWayTransformer as OfficialTransformer

from anymask.core.errors import CheckpointError, ImageError, OptionError, PromptError, StateError
from anymask.model.presets import build_sam, sam_around
from anymask.model.sam import Sam
from anymask.predict.predictor import SamPredictor


class TinyEncoder(torch.nn.Module):
    """Enough of an encoder for prompts: one convolution to 16×16 cells."""

    img_size, stride = 256, 16

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 256, kernel_size=16, stride=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.fixture(scope="module")
def tiny() -> Sam:
    torch.manual_seed(0)
    return sam_around(TinyEncoder()).eval()


@pytest.fixture(scope="module")
def official(tiny: Sam) -> OfficialSam:
    model = OfficialSam(
        TinyEncoder(),
        OfficialPromptEncoder(256, (16, 16), (256, 256), 16),
        OfficialDecoder(
            num_multimask_outputs=3,
            transformer=OfficialTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
        ),
    ).eval()
    model.load_state_dict(tiny.state_dict())
    return model


@pytest.fixture
def predictor(tiny: Sam, photo: np.ndarray) -> SamPredictor:
    predictor = SamPredictor(tiny)
    predictor.set_image(photo)
    return predictor


CALLS = {
    "point": {"point_coords": np.array([[90, 60]]), "point_labels": np.array([1])},
    "points": {"point_coords": np.array([[90, 60], [5, 5]]), "point_labels": np.array([1, 0])},
    "box": {"box": np.array([60, 30, 120, 90])},
    "box and point": {
        "box": np.array([60, 30, 120, 90]),
        "point_coords": np.array([[90, 60]]),
        "point_labels": np.array([0]),
    },
    "mask": {"mask_input": np.linspace(-9, 9, 64 * 64, dtype=np.float32).reshape(1, 64, 64)},
    "mask and point": {
        "mask_input": np.linspace(-9, 9, 64 * 64, dtype=np.float32).reshape(1, 64, 64),
        "point_coords": np.array([[90, 60]]),
        "point_labels": np.array([1]),
    },
    "nothing": {},
}


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_equals_the_official_predictor(
    tiny: Sam, official: OfficialSam, photo: np.ndarray, call: str, multimask: bool
) -> None:
    theirs, ours = segment_anything.SamPredictor(official), SamPredictor(tiny)
    for predictor in (theirs, ours):
        predictor.set_image(photo)
    a = ours.predict(**CALLS[call], multimask_output=multimask)
    b = theirs.predict(**CALLS[call], multimask_output=multimask)
    assert a[0].shape == b[0].shape and a[0].dtype == bool
    assert (a[0] == b[0]).mean() >= 0.999
    np.testing.assert_allclose(a[1], b[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(a[2], b[2], rtol=1e-3, atol=1e-4)
    logits_a = ours.predict(**CALLS[call], multimask_output=multimask, return_logits=True)[0]
    logits_b = theirs.predict(**CALLS[call], multimask_output=multimask, return_logits=True)[0]
    np.testing.assert_allclose(logits_a, logits_b, rtol=1e-3, atol=1e-3)


def test_predict_torch_and_attributes_equal(tiny: Sam, official: OfficialSam, photo: np.ndarray) -> None:
    theirs, ours = segment_anything.SamPredictor(official), SamPredictor(tiny)
    results = []
    for predictor in (ours, theirs):
        predictor.set_image(photo[..., ::-1].copy(), "BGR")
        boxes = predictor.transform.apply_boxes_torch(
            torch.tensor([[60, 30, 120, 90], [0, 0, 50, 40]]), photo.shape[:2]
        )
        points = predictor.transform.apply_coords_torch(torch.tensor([[[90, 60]], [[9, 9]]]), photo.shape[:2])
        results.append(predictor.predict_torch(points, torch.ones(2, 1), boxes, multimask_output=False))
    for a, b in zip(*results):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-3 if a.dtype != torch.bool else (a == b).float().mean() >= 0.999
    assert ours.original_size == tuple(theirs.original_size) and ours.input_size == tuple(theirs.input_size)
    assert ours.is_image_set and ours.get_image_embedding().shape == (1, 256, 16, 16)
    torch.testing.assert_close(ours.features, theirs.features)


def test_a_script_for_segment_anything_runs_with_its_import_changed(tmp_path: Path) -> None:
    script = (
        "from segment_anything import sam_model_registry, SamPredictor\n"
        "import numpy as np\n"
        "sam = sam_model_registry['lite'](checkpoint=CHECKPOINT)\n"
        "sam.to(device='cpu')\n"
        "predictor = SamPredictor(sam)\n"
        "image = np.zeros((60, 80, 3), dtype=np.uint8)\n"
        "predictor.set_image(image)\n"
        "masks, scores, logits = predictor.predict(point_coords=np.array([[40, 30]]), "
        "point_labels=np.array([1]), multimask_output=True)\n"
        "best = logits[np.argmax(scores), :, :]\n"
        "masks, scores, logits = predictor.predict(point_coords=np.array([[40, 30]]), "
        "point_labels=np.array([1]), mask_input=best[None, :, :], multimask_output=False)\n"
    )
    from anymask.weights.save import save_model

    save_model(build_sam("lite"), tmp_path / "w.safetensors", "lite")
    scope: dict = {"CHECKPOINT": str(tmp_path / "w.safetensors")}
    exec(script.replace("from segment_anything", "from anymask"), scope)
    assert scope["masks"].shape == (1, 60, 80)


def test_batch_equals_one_by_one_with_unequal_prompts(tiny: Sam, photo: np.ndarray) -> None:
    images = [photo, photo[:50, :70], photo[::2, ::3].copy()]
    points = [np.array([[90.0, 60.0]]), None, np.array([[[5.0, 5.0]], [[20.0, 10.0]], [[1.0, 1.0]]])]
    labels = [np.array([1]), None, np.ones((3, 1))]
    boxes = [None, np.array([[1, 2, 30, 40], [5, 5, 60, 45.0]]), None]
    batch = SamPredictor(tiny)
    batch.set_image_batch(images)
    masks, ious, low = batch.predict_batch(points, labels, boxes)
    assert [m.shape for m in masks] == [(3, 120, 160), (2, 3, 50, 70), (3, 3, 60, 54)]
    for i, image in enumerate(images):
        single = SamPredictor(tiny)
        single.set_image(image)
        m, s, lo = single.predict(points[i], labels[i], boxes[i])
        np.testing.assert_allclose(low[i], lo, atol=1e-3)
        np.testing.assert_allclose(ious[i], s, atol=1e-4)
        assert (masks[i] == m).mean() >= 0.999


def test_many_prompts_equal_few(predictor: SamPredictor) -> None:
    points = np.random.default_rng(0).uniform(0, 100, (37, 1, 2))
    _, together, low = predictor.predict(points, np.ones((37, 1)))
    for i in (0, 15, 16, 36):
        _, alone, low_alone = predictor.predict(points[i], np.ones(1))
        np.testing.assert_allclose(together[i], alone, atol=1e-5)
        np.testing.assert_allclose(low[i], low_alone, atol=1e-4)


def test_embedding_round_trip(predictor: SamPredictor, tiny: Sam, tmp_path: Path) -> None:
    before = predictor.predict(**CALLS["box"])
    predictor.save_embedding(tmp_path / "e.safetensors")
    torch.save(
        {
            "features": predictor.features,
            "original_size": predictor.original_size,
            "input_size": predictor.input_size,
            "is_image_set": True,
        },
        tmp_path / "dump.pth",
    )
    for name in ("e.safetensors", "dump.pth"):
        other = SamPredictor(tiny)
        other.load_embedding(tmp_path / name)
        for a, b in zip(before, other.predict(**CALLS["box"])):
            np.testing.assert_array_equal(a, b)


def test_embedding_of_another_model_or_a_wrong_file_is_refused(predictor: SamPredictor, tmp_path: Path) -> None:
    predictor.save_embedding(tmp_path / "e.safetensors")
    torch.manual_seed(9)
    other = SamPredictor(sam_around(TinyEncoder()).eval())
    with pytest.raises(StateError, match="another model"):
        other.load_embedding(tmp_path / "e.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(CheckpointError, match="is not an embedding"):
        other.load_embedding(tmp_path / "text")
    with pytest.raises(CheckpointError, match="is not a file"):
        other.load_embedding(tmp_path / "missing")


def test_binary_mask_as_a_prompt(predictor: SamPredictor) -> None:
    mask = np.zeros((120, 160), bool)
    mask[30:90, 60:120] = True
    logits = predictor.mask_to_logits(mask)
    assert logits.shape == (1, 64, 64) and logits.dtype == np.float32
    assert predictor.predict(mask_input=logits)[0].shape == (3, 120, 160)
    with pytest.raises(PromptError, match="size"):
        predictor.mask_to_logits(mask[:50])


def test_refinement_changes_the_answer(predictor: SamPredictor) -> None:
    masks, ious, low = predictor.predict(**CALLS["point"])
    best = low[ious.argmax()][None]
    again = predictor.predict(**CALLS["point"], mask_input=best, multimask_output=False)
    plain = predictor.predict(**CALLS["point"], multimask_output=False)
    assert not np.allclose(again[2], plain[2])


@pytest.mark.parametrize("option", ["max_hole_area", "max_sprinkle_area"])
def test_holes_and_sprinkles(tiny: Sam, photo: np.ndarray, option: str) -> None:
    import cv2

    clean, plain = SamPredictor(tiny, **{option: 50}), SamPredictor(tiny)
    clean.set_image(photo)
    plain.set_image(photo)
    cleaned, raw = (p.predict(**CALLS["point"])[0] for p in (clean, plain))
    assert (cleaned != raw).any()
    for mask in cleaned:
        region = ~mask if option == "max_hole_area" else mask
        areas = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)[2][1:, -1]
        assert (areas > 50).all()  # of none, if the mask has none


def test_state_errors(tiny: Sam, photo: np.ndarray) -> None:
    predictor = SamPredictor(tiny)
    for call in (predictor.predict, predictor.get_image_embedding, lambda: predictor.original_size):
        with pytest.raises(StateError, match="set_image"):
            call()
    with pytest.raises(StateError, match="set_image_batch"):
        predictor.predict_batch()
    predictor.set_image_batch([photo, photo])
    with pytest.raises(StateError, match="predict_batch"):
        predictor.predict(**CALLS["point"])
    with pytest.raises(PromptError, match="one entry for each of the 2 images, got 1"):
        predictor.predict_batch([None])
    predictor.reset_predictor()
    assert not predictor.is_image_set
    with pytest.raises(ImageError, match="empty list"):
        predictor.set_image_batch([])
    with pytest.raises(OptionError, match="image_format"):
        predictor.set_image(photo, "GRB")
    with pytest.raises(ImageError, match=r"longer side 256, got \(1, 3, 100, 100\)"):
        predictor.set_torch_image(torch.zeros(1, 3, 100, 100), (100, 100))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": [[161, 5]], "point_labels": [1]}, "point (161, 5) lies outside the photo, which is 160×120"),
        ({"point_coords": [[-1, 5]], "point_labels": [1]}, "outside the photo"),
        ({"point_coords": [[np.nan, 5]], "point_labels": [1]}, "finite"),
        ({"point_coords": [[np.inf, 5]], "point_labels": [1]}, "finite"),
        ({"point_coords": [[3, 5]]}, "point_coords came without point_labels"),
        ({"point_labels": [1]}, "point_labels came without point_coords"),
        ({"point_coords": [3, 5], "point_labels": [1]}, "must be (N, 2) or (P, N, 2)"),
        ({"point_coords": [[3, 5, 6]], "point_labels": [1]}, "must be (N, 2) or (P, N, 2)"),
        ({"point_coords": [[3, 5]], "point_labels": [1, 0]}, "one for each point"),
        ({"point_coords": [[3, 5]], "point_labels": [7]}, "got [7.0]"),
        ({"point_coords": "x", "point_labels": [1]}, "must be numbers"),
        ({"box": [10, 10, 5, 20]}, "XYXY, not XYWH"),
        ({"box": [10, 10, 10, 20]}, "is empty or turned round"),
        ({"box": [200, 10, 300, 20]}, "outside the photo"),
        ({"box": [1, 2, 3]}, "(4,) or (P, 4)"),
        ({"box": [1, 2, np.nan, 4]}, "finite"),
        ({"mask_input": np.zeros((1, 256, 256))}, "must be low-resolution logits of shape (1, 64, 64)"),
        (
            {
                "box": np.ones((2, 4)) * (1, 1, 9, 9),
                "point_coords": np.ones((3, 1, 2)),
                "point_labels": np.ones((3, 1)),
            },
            "point_coords for 3, box for 2",
        ),
    ],
)
def test_bad_prompts_say_what_is_wrong(predictor: SamPredictor, prompt: dict, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        predictor.predict(**prompt)


def test_empty_lists_are_no_prompts(predictor: SamPredictor) -> None:
    empty = predictor.predict(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 4)))
    for a, b in zip(empty, predictor.predict()):
        np.testing.assert_array_equal(a, b)


def test_normalised_coordinates(predictor: SamPredictor) -> None:
    a = predictor.predict(np.array([[90, 60]]), np.array([1]))
    b = predictor.predict(np.array([[90 / 160, 0.5]]), np.array([1]), normalize_coords=False)
    np.testing.assert_allclose(a[2], b[2], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    multimask=st.booleans(),
)
def test_any_size_and_any_point_inside_give_full_size_masks(
    tiny: Sam, height: int, width: int, at: tuple[float, float], multimask: bool
) -> None:
    predictor = SamPredictor(tiny)
    predictor.set_image(np.full((height, width, 3), 90, np.uint8))
    masks, ious, low = predictor.predict(
        np.array([[at[0] * width, at[1] * height]]), np.array([1]), multimask_output=multimask
    )
    count = 3 if multimask else 1
    assert masks.shape == (count, height, width) and low.shape == (count, 64, 64)
    assert np.isfinite(low).all() and np.isfinite(ious).all()


@pytest.mark.parametrize("hw", [(1, 1), (1, 4000), (4000, 1), (4000, 3000)])
def test_extreme_sizes(tiny: Sam, hw: tuple[int, int]) -> None:
    predictor = SamPredictor(tiny)
    predictor.set_image(np.zeros((*hw, 3), np.uint8))
    corners = np.array([[0, 0], [hw[1], 0], [0, hw[0]], [hw[1], hw[0]]], float)
    masks, _, _ = predictor.predict(corners, np.array([1, 0, 1, 0]), multimask_output=False)
    assert masks.shape == (1, *hw)


def test_bf16_masks_agree_with_fp32(photo: np.ndarray) -> None:
    from anymask.model.precision import place

    torch.manual_seed(3)
    sam = build_sam("lite", image_size=256)
    liven(sam)
    results = []
    for precision in ("fp32", "bf16"):
        predictor = SamPredictor(place(sam, "cpu", precision))
        assert sam.prompt_encoder.no_mask_embed.weight.dtype == torch.float32
        predictor.set_image(photo)
        results.append(predictor.predict(**CALLS["box"]))
    assert results[1][2].dtype == np.float32
    assert np.corrcoef(results[0][2].ravel(), results[1][2].ravel())[0, 1] > 0.99
