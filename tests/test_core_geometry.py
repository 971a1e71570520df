"""The resize-pad rule: sizes, both directions, parity with segment_anything, and the golden file others read.

`python tests/test_core_geometry.py` writes tests/golden/geometry.json anew; the rule is frozen, so that is
needed only to add cases.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from anymask.core.errors import ImageError, OptionError
from anymask.core.geometry import (
    Frame,
    scaled_hw,
    to_model_xy,
    to_model_xyxy,
    to_original_xy,
    to_original_xyxy,
)

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine
GOLDEN = Path(__file__).parent / "golden" / "geometry.json"
PAPER_EXAMPLES = {
    (480, 640): (768, 1024),
    (1500, 2250): (683, 1024),
    (1080, 1920): (576, 1024),
    (427, 640): (683, 1024),
    (333, 500): (682, 1024),
}  # PAPER §2.1
SIZES = [
    *PAPER_EXAMPLES, (640, 480), (2250, 1500), (1920, 1080), (640, 427), (500, 333), (1, 1), (1, 2),
    (2, 1), (1, 3), (1, 1023), (1, 1024), (1, 1025), (1, 2047), (1, 2048), (1, 2049), (1, 4000),
    (4000, 1), (1, 65535), (65535, 1), (7, 5), (5, 7), (3, 4000), (4000, 3), (16, 16), (17, 16),
    (64, 63), (300, 451), (512, 512), (400, 600), (600, 800), (720, 1280), (1023, 1023),
    (1023, 1024), (1024, 1024), (1025, 1024), (1024, 1025), (1365, 2048), (2048, 1365),
    (1536, 2048), (2160, 3840), (3024, 4032), (4032, 3024), (3000, 4000), (4000, 3000),
    (3456, 5184), (6000, 8000), (1200, 1600), (768, 1024), (1333, 800), (684, 1024),
]  # fmt: skip
# h·S/w ends in exactly one half; as doubles, h·(S/w) of the last two falls short and rounds down: pinned.
HALVES = [
    (333, 2048),
    (1, 2048),
    (999, 6144),
    (2997, 6144),
    (5, 10240),
    (45, 6144),
    (147, 100352),
    (735, 100352),
]
SIDES = {(480, 640): (256, 512, 768, 1024), (333, 500): (64, 512, 1024), (1, 4000): (64, 1024)}

sides = st.sampled_from([64, 256, 512, 768, 1024])
sizes = st.tuples(st.integers(1, 3000), st.integers(1, 4000))


def golden_cases() -> list[dict]:
    cases = []
    for hw in SIZES + HALVES:
        for side in SIDES.get(hw, (1024,)):
            height, width = hw
            frame = Frame.of(hw, side)
            points = np.array(
                [
                    [0, 0],
                    [width - 1, height - 1],
                    [width / 2, height / 2],
                    [width / 3, height / 7],
                    [-4.5, height + 9],
                ]
            )
            boxes = np.array([[0, 0, width, height], [width / 4, height / 5, width / 2, height * 0.9]])
            cases.append(
                {
                    "original_hw": list(hw),
                    "side": side,
                    "input_hw": list(frame.input_hw),
                    "points_xy": points.tolist(),
                    "model_xy": to_model_xy(points, frame).tolist(),
                    "boxes_xyxy": boxes.tolist(),
                    "model_xyxy": to_model_xyxy(boxes, frame).tolist(),
                }
            )
    return cases


GOLDEN_CASES = json.loads(GOLDEN.read_text())["cases"] if GOLDEN.exists() else []


def test_golden_file_holds_these_cases() -> None:
    assert len(GOLDEN_CASES) >= 65
    assert [(*c["original_hw"], c["side"]) for c in GOLDEN_CASES] == [
        (*c["original_hw"], c["side"]) for c in golden_cases()
    ]


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda c: f"{c['original_hw']}-{c['side']}")
def test_golden(case: dict) -> None:
    frame = Frame.of(tuple(case["original_hw"]), case["side"])
    assert list(frame.input_hw) == case["input_hw"]
    points, boxes = np.array(case["points_xy"]), np.array(case["boxes_xyxy"])
    assert to_model_xy(points, frame).tolist() == case["model_xy"]
    assert to_model_xyxy(boxes, frame).tolist() == case["model_xyxy"]


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda c: f"{c['original_hw']}-{c['side']}")
def test_golden_is_what_segment_anything_gives(case: dict) -> None:
    hw, side = tuple(case["original_hw"]), case["side"]
    reference = ResizeLongestSide(side)
    theirs = reference.get_preprocess_shape(*hw, side)
    assert case["input_hw"] == [max(1, n) for n in theirs]  # they allow a side of 0 pixels, and fail later
    if min(theirs) > 0:
        assert reference.apply_coords(np.array(case["points_xy"]), hw).tolist() == case["model_xy"]
        assert reference.apply_boxes(np.array(case["boxes_xyxy"]), hw).tolist() == case["model_xyxy"]


@pytest.mark.parametrize(("hw", "expected"), PAPER_EXAMPLES.items())
def test_examples_of_the_paper(hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_hw(hw, 1024) == expected


@calm
@given(sizes, sides)
def test_longest_side_is_the_model_side(hw: tuple[int, int], side: int) -> None:
    scaled = scaled_hw(hw, side)
    assert max(scaled) == side
    assert min(scaled) >= 1
    assert scaled_hw(hw[::-1], side) == scaled[::-1]


@calm
@given(sizes, sides)
def test_aspect_ratio_is_kept_within_half_a_pixel(hw: tuple[int, int], side: int) -> None:
    for original, scaled in zip(hw, scaled_hw(hw, side)):
        assert abs(max(1, original * side / max(hw)) - scaled) <= 0.5 + 1e-9


coordinates = st.floats(-100, 5000, allow_nan=False)


@calm
@given(sizes, sides, st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5))
def test_points_and_boxes_return(hw: tuple[int, int], side: int, points: list[tuple[float, float]]) -> None:
    frame, xy = Frame.of(hw, side), np.array(points)
    np.testing.assert_allclose(to_original_xy(to_model_xy(xy, frame), frame), xy, rtol=1e-12, atol=1e-9)
    boxes = np.concatenate([xy, xy[::-1]], axis=1)
    np.testing.assert_allclose(
        to_original_xyxy(to_model_xyxy(boxes, frame), frame), boxes, rtol=1e-12, atol=1e-9
    )


@calm
@given(sizes, sides)
def test_corners_of_the_photo_are_corners_of_the_scaled_photo(hw: tuple[int, int], side: int) -> None:
    frame = Frame.of(hw, side)
    corner = to_model_xy(np.array([hw[1], hw[0]]), frame)
    np.testing.assert_allclose(corner, frame.input_hw[::-1], rtol=1e-12)


@calm
@given(sizes, sides)
def test_tensors_equal_arrays(hw: tuple[int, int], side: int) -> None:
    frame = Frame.of(hw, side)
    points = np.array([[1.5, 2.0], [30, 40]])
    double = to_model_xy(torch.tensor(points), frame)
    assert double.dtype == torch.float64
    assert double.tolist() == to_model_xy(points, frame).tolist()
    for dtype in (torch.float32, torch.float16, torch.int64):
        tensor = torch.tensor(points).to(dtype)
        moved = to_model_xy(tensor, frame)
        assert moved.dtype == torch.float32
        theirs = ResizeLongestSide(side)
        if min(theirs.get_preprocess_shape(*hw, side)) > 0:
            assert torch.equal(moved, theirs.apply_coords_torch(tensor, hw))


def test_inputs_are_not_changed() -> None:
    frame, points = Frame.of((480, 640), 1024), np.array([[3, 4]])
    to_model_xy(points, frame)
    assert points.tolist() == [[3, 4]]


def test_plain_lists_and_integers_are_accepted() -> None:
    frame = Frame.of((480, 640), 1024)
    assert to_model_xy([[500, 375]], frame).tolist() == [[800.0, 600.0]]
    assert to_model_xy(np.zeros((0, 2), int), frame).shape == (0, 2)


@pytest.mark.parametrize("hw", [(0, 5), (5, 0), (-1, 3)])
def test_an_image_without_pixels_is_refused(hw: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="at least 1×1"):
        scaled_hw(hw, 1024)


def test_a_model_without_pixels_is_refused() -> None:
    with pytest.raises(OptionError, match="side"):
        scaled_hw((4, 4), 0)


def write_golden() -> None:
    rule = (
        "scale = side / max(H, W) as double; input = max(1, floor(H * scale + 0.5)), the same for W. "
        "A point: x * (input_W / W), y * (input_H / H) as doubles. Pad right and bottom."
    )
    lines = ",\n".join("  " + json.dumps(case) for case in golden_cases())
    GOLDEN.write_text(f'{{"rule": {json.dumps(rule)},\n "cases": [\n{lines}\n ]}}\n')


if __name__ == "__main__":
    write_golden()
