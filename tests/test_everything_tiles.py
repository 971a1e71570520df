"""Proves: tiles cover a large picture, masks are joined over borders, TIFF is read in parts, and memory stays small."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_tools import shard
from tile_tools import Discs

from anymask.core.errors import ImageError, OptionError
from anymask.core.images import read_image
from anymask.core.rle import decode_one, encode_one
from anymask.predict.everything import Plan, prepare, segment_photo
from anymask.predict.formats import read_masks
from anymask.predict.options import AutomaticOptions
from anymask.predict.pictures import WholePicture, open_picture, reduced
from anymask.predict.sources import find_photos
from anymask.predict.tiff import TiffWindows
from anymask.predict.tiles import Tiles, segment_tiles
from anymask.predict.windows import decode_box, decode_window

HERE = Path(__file__).parent
rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (150, 210, 3), dtype=np.uint8)
smooth = cv2.GaussianBlur(noise, (0, 0), 9)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(64, 200), st.data())
def test_tiles_cover_everything_and_overlap(height: int, width: int, side: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, side // 2))
    boxes = Tiles(side, overlap).boxes((height, width))
    seen = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        assert (y1 - y0, x1 - x0) == (min(side, height), min(side, width))
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1
    lefts = sorted({b[0] for b in boxes})
    assert all(a + side - b >= overlap for a, b in pairwise(lefts))


def masks_of(canvas: np.ndarray, tiles: Tiles) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    records = segment_tiles(Discs(), WholePicture(canvas), tiles)  # type: ignore[arg-type]
    return [decode_one(r["segmentation"]) for r in records], records


def whole(canvas: np.ndarray) -> list[np.ndarray]:
    return [decode_one(r["segmentation"]) for r in Discs().generate(canvas)]


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return sorted(m.tobytes() for m in found) == sorted(m.tobytes() for m in wanted)


def test_objects_over_borders_come_out_whole() -> None:
    canvas = np.zeros((500, 600, 3), np.uint8)
    for centre, radius in (((128, 60), 40), ((60, 128), 20), ((118, 300), 15), ((300, 300), 140), ((520, 420), 70)):
        cv2.circle(canvas, centre, radius, (255, 255, 255), -1)
    masks, records = masks_of(canvas, Tiles(128, 32))
    assert len(masks) == 5 and same(masks, whole(canvas))
    for mask, record in zip(masks, records):
        rows, columns = np.nonzero(mask)
        assert record["area"] == mask.sum()
        assert record["bbox"] == [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
        x, y = record["point_coords"][0]
        assert mask[round(y), round(x)]
        x, y, w, h = record["crop_box"]
        assert x <= columns.min() and columns.max() < x + w and y <= rows.min() and rows.max() < y + h
        assert record["predicted_iou"] == pytest.approx(0.9) and record["stability_score"] == pytest.approx(0.95)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_convex_objects_come_out_whole_wherever_they_lie(seed: int) -> None:
    random = np.random.default_rng(seed)
    canvas = np.zeros((300, 340, 3), np.uint8)
    free = np.ones(canvas.shape[:2], np.uint8)
    for _ in range(6):
        centre = (int(random.integers(20, 320)), int(random.integers(20, 280)))
        shape = np.zeros(canvas.shape[:2], np.uint8)
        axes = (int(random.integers(8, 70)), int(random.integers(8, 70)))
        cv2.ellipse(shape, centre, axes, float(random.integers(180)), 0, 360, 1, -1)
        if not (cv2.dilate(shape, np.ones((5, 5))) & (1 - free)).any():
            free[shape > 0] = 0
            canvas[shape > 0] = 255
    masks, _ = masks_of(canvas, Tiles(100, 40))
    wanted = whole(canvas)
    covered = np.zeros(canvas.shape[:2], bool)
    for mask in masks:
        best = max((mask & w).sum() / (mask | w).sum() for w in wanted)
        assert best > 0.97  # what ends within a few pixels of a border may lose them
        covered |= mask
    assert (covered != (canvas[..., 0] > 0)).sum() < 0.01 * covered.sum()


def test_neighbours_that_only_touch_the_overlap_stay_apart() -> None:
    canvas = np.zeros((100, 240, 3), np.uint8)
    canvas[20:40, 10:120] = 255  # into the overlap from the left, and ends there
    canvas[50:70, 110:230] = 255  # the same from the right
    masks, _ = masks_of(canvas, Tiles(140, 40))
    assert len(masks) == 2 and same(masks, whole(canvas))


def test_a_small_picture_is_one_tile_and_nothing_is_a_result() -> None:
    generator = Discs()
    assert segment_tiles(generator, WholePicture(np.zeros((50, 60, 3), np.uint8)), Tiles(128, 32)) == []  # type: ignore[arg-type]
    assert generator.shapes == [(50, 60)]


def test_progress_and_time_budget() -> None:
    seen: list[tuple[int, int]] = []
    budgets: list[float] = []

    class Timed(Discs):
        def generate(self, image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
            budgets.append(options["time_budget_s"])
            return super().generate(image)

    picture = WholePicture(np.zeros((200, 200, 3), np.uint8))
    segment_tiles(Timed(), picture, Tiles(128, 32), 8.0, lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    assert seen == [(i, 4) for i in (1, 2, 3, 4)] and 1.8 < budgets[0] <= 2.0 and budgets[3] <= 8.0


@pytest.mark.parametrize(("side", "overlap"), [(10, 0), (128, -1), (128, 65)])
def test_bad_tiles(side: int, overlap: int) -> None:
    with pytest.raises(OptionError, match=r"--(tile|overlap) must be"):
        Tiles(side, overlap)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1), st.data())
def test_windows_of_run_lengths(height: int, width: int, seed: int, share: float, data: st.DataObject) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    part, x, y = decode_box(encode_one(mask))
    again = np.zeros_like(mask)
    again[y : y + part.shape[0], x : x + part.shape[1]] = part
    assert np.array_equal(again, mask)
    x0, y0 = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    x1, y1 = data.draw(st.integers(x0, width)), data.draw(st.integers(y0, height))
    assert np.array_equal(decode_window(encode_one(mask), (x0, y0, x1, y1)), mask[y0:y1, x0:x1])


def tiff(path: Path, kind: str) -> Path:
    """A TIFF of `smooth` in one of the layouts met in the wild."""
    write: dict[str, Any] = {
        "tiles": {"tile": (32, 48)},
        "deflate": {"tile": (32, 48), "compression": "zlib"},
        "predictor": {"tile": (64, 64), "compression": "zlib", "predictor": True},
        "big": {"tile": (32, 48), "compression": "zlib", "bigtiff": True},
        "motorola": {"tile": (32, 48), "byteorder": ">"},
        "strips": {"rowsperstrip": 17},
    }
    if kind in write:
        tifffile.imwrite(path, smooth, photometric="rgb", **write[kind])
    elif kind == "gray16":
        tifffile.imwrite(path, smooth[..., 0].astype(np.uint16) * 257, tile=(32, 48), photometric="minisblack")
    elif kind == "alpha":
        extra = np.dstack([smooth, smooth[..., :1]])
        tifffile.imwrite(path, extra, tile=(32, 48), photometric="rgb", extrasamples=["unassalpha"])
    elif kind == "palette":
        Image.fromarray(smooth).quantize(16).save(path)
    else:
        Image.fromarray(smooth).save(path, compression=kind)
    return path


KINDS = ["tiles", "deflate", "predictor", "big", "motorola", "strips", "gray16", "alpha", "palette"]


@pytest.mark.parametrize("kind", [*KINDS, "tiff_lzw", "jpeg", "packbits"])
def test_windows_of_tiff_files_are_those_of_the_picture(kind: str, tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", kind)
    full = read_image(path)
    picture = TiffWindows(path)
    assert picture.hw == (150, 210)
    for box in ((0, 0, 210, 150), (40, 30, 41, 31), (100, 60, 205, 149), (0, 149, 210, 150)):
        assert np.array_equal(picture.window(box), full[box[1] : box[3], box[0] : box[2]])
    picture.close()
    inside = shard(tmp_path / "x.tar", {"one.png": b"x" * 700, "deep/a.tif": path.read_bytes()})
    with open_picture(find_photos([inside])[1]) as picture_in_tar:
        assert isinstance(picture_in_tar, TiffWindows)
        assert np.array_equal(picture_in_tar.window((50, 50, 90, 90)), full[50:90, 50:90])


def test_only_what_is_needed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = TiffWindows._decode
    monkeypatch.setattr(TiffWindows, "_decode", lambda self, row, i: (decoded.append(i), original(self, row, i))[1])
    with open_picture(tiff(tmp_path / "a.tif", "deflate")) as picture:
        picture.window((50, 35, 60, 40))
        assert decoded == [6]  # second row of five tiles
        picture.window((40, 35, 60, 40))
        assert decoded == [6, 5]


@pytest.mark.parametrize("kind", ["planes", "turned", "png", "jpeg"])
def test_what_cannot_be_read_in_parts_is_read_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if kind in ("planes", "turned") else f"a.{kind}")
    if kind == "planes":
        tifffile.imwrite(path, smooth.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    elif kind == "turned":
        tifffile.imwrite(path, smooth, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    else:
        Image.fromarray(smooth).save(path)
    with open_picture(path) as picture:
        assert isinstance(picture, WholePicture)
        assert np.array_equal(picture.window((5, 6, 90, 80)), read_image(path)[6:80, 5:90])


def test_broken_tiffs_are_told(tmp_path: Path) -> None:
    content = tiff(tmp_path / "a.tif", "tiles").read_bytes()
    for i, part in enumerate((content[:100], content[: len(content) // 2], b"II*\0" + b"\xff" * 60, b"II")):
        (tmp_path / f"{i}.tif").write_bytes(part)
        with pytest.raises(ImageError), open_picture(tmp_path / f"{i}.tif") as picture:
            picture.window((0, 0, *picture.hw[::-1]))


def test_a_reduced_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymask.predict.pictures._BLOCK", 64)
    small = reduced(WholePicture(smooth), 70)
    assert small.shape == (50, 70, 3)
    straight = np.array(Image.fromarray(smooth).resize((70, 50), Image.Resampling.BILINEAR))
    assert np.abs(small.astype(int) - straight).mean() < 2
    assert np.array_equal(reduced(WholePicture(smooth), 1000), smooth)


def test_too_large_to_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymask.predict.pictures.MAX_PIXELS", 1000)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="tiled TIFF"), open_picture(tmp_path / "a.png"):
        pass


def discs_12000_9000(path: Path) -> None:
    """108 megapixels, 324 MB decoded: a disc in each of 20×15 fields and one over the middle; tiled, deflated."""

    def tile(y: int, x: int) -> np.ndarray:
        gray = np.full((512, 512), 30, np.uint8)
        for row in range(y // 600 - 1, y // 600 + 2):
            for column in range(x // 600 - 1, x // 600 + 2):
                centre_x, centre_y = 600 * column + 300, 600 * row + 300
                if np.hypot(centre_x - 6000, centre_y - 4500) > 1700:
                    cv2.circle(gray, (centre_x - x, centre_y - y), 100, 220, -1)
        cv2.circle(gray, (6000 - x, 4500 - y), 1500, 220, -1)
        return gray[..., None].repeat(3, axis=2)

    tiles = (tile(y, x) for y in range(0, 9000, 512) for x in range(0, 12000, 512))
    layout: dict[str, Any] = {"shape": (9000, 12000, 3), "dtype": np.uint8, "tile": (512, 512), "photometric": "rgb"}
    tifffile.imwrite(path, tiles, compression="zlib", compressionargs={"level": 1}, **layout)


def test_memory_is_bounded_for_108_megapixels(tmp_path: Path) -> None:
    discs_12000_9000(tmp_path / "big.tif")
    done = subprocess.run(
        [sys.executable, str(HERE / "big_picture.py"), str(tmp_path / "big.tif")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, peak, num_masks = map(float, done.stdout.split())
    assert peak - before < 200, f"{peak - before:.0f} MB for a picture of 324 MB"
    (photo,) = read_masks(tmp_path / "out")
    areas = sorted(mask.num_px for mask in photo.masks)
    assert photo.hw == (9000, 12000) and len(photo.masks) == num_masks > 200
    assert areas[-1] == pytest.approx(np.pi * 1500**2, rel=0.001)
    assert areas[-2] == pytest.approx(np.pi * 100**2, rel=0.01)
    with Image.open(tmp_path / "out" / "overlays" / "big.jpg") as overlay:
        assert overlay.size == (1600, 1200)


def test_tiles_decide_the_result(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (source,) = find_photos([tmp_path / "a.png"])
    skipped = []
    for tiles in (None, Tiles(128, 32), Tiles(128, 32), Tiles(64, 32)):
        plan = Plan(tmp_path / "out", "sa1b", AutomaticOptions(), "discs", overlays=False, tiles=tiles)
        prepare(plan)
        skipped.append(segment_photo(Discs(), source, plan).skipped)  # type: ignore[arg-type]
    assert skipped == [False, False, True, False]
