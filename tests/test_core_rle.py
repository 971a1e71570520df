"""COCO run lengths: round trips, parity with pycocotools and segment_anything, and refusal of damaged
entries.

`python tests/test_core_rle.py` writes tests/golden/rle.json anew, for readers in other languages.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco
from segment_anything.utils import amg

from anymask.core import rle
from anymask.core.errors import InputError

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine
GOLDEN = Path(__file__).parent / "golden" / "rle.json"

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))
# long runs need several characters, and differences of both signs
blocky = st.builds(
    lambda cells, k: np.kron(cells, np.ones((k, k), bool)).astype(bool),
    arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=8)),
    st.integers(1, 60),
)
any_mask = masks | blocky


def golden_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    y, x = np.ogrid[:48, :64]
    shapes = [
        np.zeros((1, 1), bool),
        np.ones((1, 1), bool),
        np.zeros((3, 5), bool),
        np.ones((5, 3), bool),
        np.eye(6, dtype=bool),
        np.arange(24).reshape(4, 6) % 2 == 0,
        np.arange(24).reshape(4, 6) > 20,
        (y - 20) ** 2 + (x - 30) ** 2 < 300,
        ((y - 20) ** 2 + (x - 30) ** 2 < 300) & ((y - 20) ** 2 + (x - 30) ** 2 > 80),
        np.broadcast_to(x >= 60, (48, 64)),
        np.broadcast_to(y < 2, (48, 64)),
    ]
    return shapes + [rng.random((h, w)) < p for h, w, p in [(9, 7, 0.5), (16, 16, 0.1), (13, 31, 0.9)]]


INVALID: dict[str, Any] = {
    "runs too short": {"size": [4, 4], "counts": [3, 4]},
    "runs too long": {"size": [4, 4], "counts": [3, 14]},
    "negative run": {"size": [4, 4], "counts": [20, -4]},
    "no runs": {"size": [4, 4], "counts": []},
    "size swapped for another": {"size": [4, 5], "counts": [8, 8]},
    "fractions": {"size": [4, 4], "counts": [8.0, 8.0]},
    "nested": {"size": [4, 4], "counts": [[8, 8]]},
    "text too short": {"size": [4, 4], "counts": "0"},
    "text empty": {"size": [4, 4], "counts": ""},
    "text ends inside a number": {"size": [4, 4], "counts": "P"},
    "text with a foreign character": {"size": [4, 4], "counts": "8 8"},
    "text not ASCII": {"size": [4, 4], "counts": "8ü"},
    "text with an endless number": {"size": [4, 4], "counts": "o" * 40 + "0"},
    "text with a negative run": {"size": [4, 4], "counts": "@`0"},
    "no size": {"counts": "0`0"},
    "no counts": {"size": [4, 4]},
    "size of one": {"size": [4], "counts": "0`0"},
    "size zero": {"size": [0, 4], "counts": [0]},
    "size negative": {"size": [-4, -4], "counts": [16]},
    "size text": {"size": "44", "counts": [16]},
    "size fraction": {"size": [4.0, 4.0], "counts": [16]},
    "size true": {"size": [True, 4], "counts": [4]},
    "counts null": {"size": [4, 4], "counts": None},
    "a polygon": [[0, 0, 4, 0, 4, 4]],
    "null": None,
    "huge": {"size": [100_000, 100_000], "counts": [10_000_000_000]},
}
READERS = [rle.decode_one, rle.area, rle.to_bbox_xywh, rle.to_uncompressed, rle.to_compressed]


@calm
@given(any_mask)
def test_a_mask_returns(mask: np.ndarray) -> None:
    packed = json.loads(json.dumps(rle.encode_one(mask)))
    assert isinstance(packed["counts"], str)
    plain = json.loads(json.dumps(rle.to_uncompressed(packed)))
    assert all(isinstance(n, int) for n in plain["counts"])
    for form in (packed, plain, {**packed, "counts": packed["counts"].encode()}):
        back = rle.decode_one(form)
        assert back.dtype == bool
        assert np.array_equal(back, mask)
        assert rle.area(form) == mask.sum()
    assert rle.to_compressed(plain) == packed
    assert rle.to_uncompressed(plain) == plain


@calm
@given(any_mask)
def test_equal_to_pycocotools(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = rle.encode_one(mask)
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert rle.to_bbox_xywh(ours) == coco.toBbox(theirs).tolist()
    with warnings.catch_warnings():  # pycocotools 2.0.11 under numpy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        assert np.array_equal(rle.decode_one(ours), coco.decode(theirs))


@calm
@given(any_mask)
def test_box_is_tight(mask: np.ndarray) -> None:
    x, y, w, h = rle.to_bbox_xywh(rle.encode_one(mask))
    rest = mask.copy()
    rest[y : y + h, x : x + w] = False
    assert not rest.any()
    if mask.any():
        assert mask[y].any() and mask[y + h - 1].any() and mask[:, x].any() and mask[:, x + w - 1].any()
    else:
        assert (x, y, w, h) == (0, 0, 0, 0)


@calm
@given(any_mask)
def test_equal_to_segment_anything(mask: np.ndarray) -> None:
    [theirs] = amg.mask_to_rle_pytorch(torch.from_numpy(mask)[None])
    ours = rle.to_uncompressed(rle.encode_one(mask))
    assert ours == theirs
    assert rle.area(theirs) == amg.area_from_rle(theirs)
    assert rle.to_compressed(theirs) == amg.coco_encode_rle(theirs)


def test_many_masks_at_once() -> None:
    stack = np.random.default_rng(0).random((5, 11, 17)) < 0.4
    rles = rle.encode(stack)
    assert len(rles) == 5
    assert np.array_equal(rle.decode(rles), stack)


def test_no_masks() -> None:
    assert rle.encode(np.zeros((0, 4, 5), bool)) == []
    assert rle.decode([]).shape == (0, 0, 0)


def test_layouts_and_0_1_integers_are_accepted() -> None:
    mask = np.random.default_rng(0).random((8, 9)) < 0.5
    expected = rle.encode_one(mask)
    assert rle.encode_one(np.asfortranarray(mask)) == expected
    assert rle.encode_one(mask.T.copy().T) == expected
    assert rle.encode_one(mask.astype(np.int64)) == expected
    assert rle.encode_one(np.stack([mask, mask])[0]) == expected


@pytest.mark.parametrize(
    "mask",
    [np.zeros((2, 2)), np.full((2, 2), 255, np.uint8), np.zeros((0, 3), bool), np.zeros(4, bool),
     np.zeros((1, 2, 2), bool), -np.ones((2, 2), int)],
)  # fmt: skip
def test_what_is_not_a_mask_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected a mask"):
        rle.encode_one(mask)


def test_one_and_many_are_told_apart() -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(InputError, match="encode_one"):
        rle.encode(mask)
    with pytest.raises(InputError, match="decode_one"):
        rle.decode(rle.encode_one(mask))
    with pytest.raises(InputError, match="one size"):
        rle.decode([rle.encode_one(mask), rle.encode_one(np.ones((2, 3), bool))])


@pytest.mark.parametrize("reader", READERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("entry", INVALID.values(), ids=INVALID)
def test_damaged_entries_are_refused(entry: Any, reader: Any) -> None:
    with pytest.raises(InputError):
        reader(entry)


@calm
@given(st.binary(max_size=12), st.integers(1, 6), st.integers(1, 6))
def test_any_text_is_read_or_refused(text: bytes, height: int, width: int) -> None:
    """Never a crash, never pixels out of nowhere: what is accepted has runs that fill the mask."""
    entry = {"size": [height, width], "counts": text}
    try:
        mask = rle.decode_one(entry)
    except InputError:
        return
    assert mask.shape == (height, width)
    assert sum(rle.to_uncompressed(entry)["counts"]) == height * width
    assert rle.area(entry) == mask.sum()


def test_runs_of_zero_are_valid() -> None:
    entry = {"size": [2, 3], "counts": [0, 2, 0, 2, 2, 0]}
    assert rle.decode_one(entry).T.ravel().tolist() == [1, 1, 1, 1, 0, 0]
    assert rle.decode_one(rle.to_compressed(entry)).sum() == 4


def test_the_limit_is_the_callers() -> None:
    entry = rle.encode_one(np.ones((10, 10), bool))
    with pytest.raises(InputError, match="limit of 99"):
        rle.decode_one(entry, max_pixels=99)
    assert rle.decode_one(entry, max_pixels=100).all()


def test_golden() -> None:
    golden = json.loads(GOLDEN.read_text())
    for case, mask in zip(golden["cases"], golden_masks(), strict=True):
        rows = np.array([[c == "1" for c in row] for row in case["rows"]])
        assert np.array_equal(rows, mask)
        packed = {"size": case["size"], "counts": case["counts"]}
        assert rle.encode_one(rows) == packed
        assert rle.to_uncompressed(packed)["counts"] == case["runs"]
        assert rle.area(packed) == case["area"]
        assert rle.to_bbox_xywh(packed) == case["bbox_xywh"]
    for entry in golden["invalid"].values():
        with pytest.raises(InputError):
            rle.decode_one(entry)


def write_golden() -> None:
    cases = []
    for mask in golden_masks():
        packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        [plain] = amg.mask_to_rle_pytorch(torch.tensor(mask)[None])
        cases.append(
            {
                "size": list(mask.shape),
                "rows": ["".join(map(str, row)) for row in mask.astype(int)],
                "counts": packed["counts"].decode(),
                "runs": plain["counts"],
                "area": int(mask.sum()),
                "bbox_xywh": coco.toBbox(packed).astype(int).tolist(),
            }
        )
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    broken = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in INVALID.items())
    GOLDEN.write_text(f'{{"cases": [\n{lines}\n ],\n "invalid": {{\n{broken}\n }}}}\n')


if __name__ == "__main__":
    write_golden()
