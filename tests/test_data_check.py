"""Proves: shapes of masks by hand, every kind of problem is found, and the report is JSON and a picture."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.data import app
from anymask.core.errors import InputError, MissingExtraError
from anymask.core.rle import encode, encode_one
from anymask.data.check import check_dataset
from anymask.data.readers import Photo
from anymask.data.statistics import COUNT_BINS, Statistics, mask_shape

H, W = 40, 60


def disc(radius: float = 12, center: tuple[float, float] = (20, 30)) -> np.ndarray:
    y, x = np.mgrid[:H, :W]
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


def box(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    "convex",
    [disc(), disc(3.3, (10.4, 5.2)), box(0, H, 0, W), box(5, 6, 3, 50), box(3, 30, 7, 8), box(0, 1, 0, 1)],
)
def test_a_convex_shape_has_concavity_0(convex: np.ndarray) -> None:
    shape = mask_shape(encode_one(convex))
    assert shape is not None and shape.concavity == 0
    y, x = np.nonzero(convex)
    assert shape.center_xy == pytest.approx(((x.mean() + 0.5) / W, (y.mean() + 0.5) / H))
    assert shape.relative_size == pytest.approx((convex.sum() / (H * W)) ** 0.5)


def test_concavity_and_centre_by_hand() -> None:
    corner = box(10, 20, 10, 30) | box(10, 30, 10, 20)  # a square of 20 without its last quarter, cut diagonally
    shape = mask_shape(encode_one(corner))
    assert shape is not None
    hull = sum(20 if row < 10 else 20 - (row - 9) for row in range(20))  # rows of the hull, one px less each
    assert shape.concavity == pytest.approx(1 - 300 / hull)
    assert mask_shape(encode_one(np.zeros((H, W), bool))) is None


def test_shapes_of_noise_agree_with_pixels() -> None:
    rng = np.random.default_rng(0)
    for density in (0.01, 0.3, 0.97, 1):
        mask = rng.random((H, W)) < density
        shape = mask_shape(encode_one(mask))
        y, x = np.nonzero(mask)
        assert shape is not None
        assert shape.center_xy == pytest.approx(((x.mean() + 0.5) / W, (y.mean() + 0.5) / H))
        assert 0 <= shape.concavity < 1


def test_bins_of_the_paper_and_sizes_weighted_alike() -> None:
    statistics = Statistics()
    for count in (0, 10, 11, 50, 51, 201):
        statistics.add(Photo("a", "s", b"", (H, W), [encode_one(disc(2))] * count))
    summary = statistics.summary()
    assert summary["masks_per_photo"]["bins"] == list(COUNT_BINS)
    assert np.allclose(summary["masks_per_photo"]["shares"], [2 / 6, 2 / 6, 1 / 6, 0, 1 / 6], atol=1e-4)
    assert sum(map(sum, summary["centers"])) == pytest.approx(32 * 32, rel=1e-3)
    even = Statistics()
    corner = box(0, 40, 0, 10) | box(0, 10, 0, 60)
    even.add(Photo("a", "s", b"", (H, W), [encode_one(disc(3))] * 30 + [encode_one(corner)]))
    shares = even.summary()["concavity"]["shares"]
    assert shares[0] == 0.5 and max(shares[1:]) == 0.5  # thirty small convex masks count as much as one large
    assert Statistics().summary()["masks"] == 0


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Three good photos, then one damaged in its middle, a copy, a broken record; empty and doubled masks."""
    masks = {"a": [disc(), np.zeros((H, W), bool), box(0, 9, 0, 9), disc()]}
    pictures = {name: jpeg(i) for i, name in enumerate("abcde")}
    pictures["d"] = pictures["d"][:2000] + b"\0" * 300 + pictures["d"][2300:]
    pictures["f"] = pictures["a"]
    path = tmp_path / "mixed-000.tar"
    with tarfile.open(path, "w") as tar:
        for name, picture in pictures.items():
            annotations = [{"segmentation": r} for r in encode(np.array(masks.get(name, [disc(5)])))]
            record = {"image": {"height": H, "width": W}, "annotations": annotations}
            text = b"{" if name == "e" else json.dumps(record).encode()
            for file, content in ((f"{name}.png", picture), (f"{name}.json", text)):
                info = tarfile.TarInfo(file)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


FOUND = {"unreadable photo": 1, "broken record": 1, "empty mask": 1, "duplicate mask": 1, "duplicate photo": 1}


def test_every_problem_is_found_and_named(shard: Path) -> None:
    report = check_dataset(shard)
    assert report.problems.counts() == FOUND
    messages = [f"{p.file}: {p.message}" for p in report.problems.found]
    assert any("mixed/a: masks 0 and 3 have IoU 1.000" in m for m in messages)
    assert any("mixed/f: the same picture as a" in m for m in messages)
    assert report.summary["photos"] == 5
    assert report.summary["masks"] == 3 + 4


def test_the_command_writes_json_and_a_picture(shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = CliRunner().invoke(app, ["check", str(shard), str(shard), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 × duplicate mask, first:" in result.output
    content = json.loads((out / "report.json").read_text())
    assert content[0]["problems"]["counts"] == FOUND and content[0]["layout"] == "SA-1B shards"
    with Image.open(out / "report.png") as picture:
        assert picture.width == 2000
    assert sorted(p.name for p in out.iterdir()) == ["report.json", "report.png"]
    assert CliRunner().invoke(app, ["check", str(shard), "--strict"]).exit_code == 1


def test_one_set_without_masks_can_be_drawn(tmp_path: Path) -> None:
    from anymask.data.check import SetReport
    from anymask.data.plots import draw_report
    from anymask.data.readers import Problems

    draw_report([SetReport("x", "", Problems(), Statistics().summary())], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_without_matplotlib_it_says_so_first(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(app, ["check", str(shard), "--out", str(tmp_path / "r")])
    assert isinstance(result.exception, MissingExtraError) and "--no-plot" in str(result.exception)
    assert not (tmp_path / "r").exists()
    result = CliRunner().invoke(app, ["check", str(shard), "--out", str(tmp_path / "r"), "--no-plot"])
    assert result.exit_code == 0 and (tmp_path / "r" / "report.json").exists()


def test_a_wrong_path_is_said_before_the_work(shard: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(shard), str(tmp_path / "nowhere")])
    assert isinstance(result.exception, InputError) and "is not there" in str(result.exception)
