"""Proves: methods run under the same prompts stand side by side, and the share of sets that the first wins is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import OptionError
from anymask.core.images import write_image
from anymask.core.rle import encode_one
from anymask.evaluate.compare import compare, differences
from anymask.evaluate.points import PointProtocol, Points
from anymask.evaluate.runner import Outcome


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    """Two sets of one photo: a bright square, and the same square seen by nobody's annotator but a circle's."""
    square, other = np.zeros((2, 60, 80), bool)
    square[15:45, 20:60] = True
    other[5:50, 5:70] = True
    image = np.where(square[..., None], 220, 30).astype(np.uint8).repeat(3, axis=2)
    for name, mask in (("easy", square), ("odd", other)):
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        write_image(tmp_path / name / "images" / "a.png", image)
        write_image(tmp_path / name / "masks" / "a.png", mask.astype(np.uint8) * 255)
    for name, mask in (("exact", square), ("wide", other)):
        record = {"segmentation": encode_one(mask), "predicted_iou": 0.9}
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.json").write_text(json.dumps({"annotations": [record]}))
    return [tmp_path / "easy", tmp_path / "odd"]


def protocol(**how: Any) -> PointProtocol:
    return PointProtocol(clicks=(1,), reach=(), **how)


def test_wins_are_counted_by_set(data: list[Path], tmp_path: Path) -> None:
    methods = [f"folder:{tmp_path / name}" for name in ("exact", "wide")] + ["grabcut"]
    tables, outcomes = compare(Points(data, protocol=protocol()), methods, tmp_path / "out")
    click, box = tables
    assert click.columns == ("set", *methods)
    rows = {row[0]: row[1:] for row in click.rows}
    assert rows["easy"][0] == pytest.approx(100) and rows["odd"][1] == pytest.approx(100)
    assert rows["easy"][1] == rows["odd"][0] == pytest.approx(100 * 1200 / 2925, abs=1e-3)
    assert rows["mean"][0] == rows["mean"][1]
    assert click.rows[-1][:3] == (f"{methods[0]} wins on", None, "50 %")
    assert box.title == "Methods at a box" and set(outcomes) == set(methods)
    out = tmp_path / "out"
    assert sum(path.is_dir() for path in out.iterdir()) == 3 and "wins on" in (out / "table.md").read_text()
    assert {p.stem.split("-at-")[-1] for p in out.glob("*.png")} == {"one-click", "a-box"}
    alone, _ = compare(Points(data, protocol=protocol(boxes=False)), methods[:2])
    assert len(alone) == 1
    with pytest.raises(OptionError, match="two methods"):
        compare(Points(data, protocol=protocol()), methods[:1])
    with pytest.raises(OptionError, match="keep 1"):
        compare(Points(data, protocol=PointProtocol(clicks=(2,))), methods)


def test_several_clicks_are_counted_too(data: list[Path], tmp_path: Path) -> None:
    several = PointProtocol(clicks=(1, 3), reach=(0.9,), boxes=False)
    methods = [f"folder:{tmp_path / 'exact'}", f"folder:{tmp_path / 'wide'}"]
    (click, noc), outcomes = compare(Points(data, protocol=several), methods, tmp_path / "out")
    assert noc.title == "Clicks to 90 % IoU" and click.title == "Methods at one click"
    rows = {row[0]: row[1:] for row in noc.rows}
    assert rows["easy"] == (1, 3) and rows["odd"] == (3, 1)  # at most the last click
    assert noc.rows[-1] == (f"{methods[0]} wins on", None, "50 %")
    assert (tmp_path / "out" / "miou-over-clicks.png").stat().st_size > 1000
    assert outcomes[methods[0]].summary["reached"] == {"90": [50.0, 50.0, 50.0]}


def test_differences_put_the_largest_lead_first() -> None:
    sets = {"a": (50.0, 40.0), "b": (90.0, 30.0), "c": (10.0, 20.0)}
    outcomes = {
        method: Outcome({"sets": {name: {"clicks_1": values[i]} for name, values in sets.items()}}, [], 1)
        for i, method in enumerate(("ours", "theirs"))
    }
    bars = differences(outcomes, ["ours", "theirs"], "clicks_1")
    assert bars.labels == ["b", "a", "c"] and bars.panels == {"− theirs": [60, 10, -10]}


def test_command(data: list[Path], tmp_path: Path) -> None:
    names = ["felzenszwalb", f"folder:{tmp_path / 'exact'}"]
    options = [part for name in names for part in ("--method", name)]
    done = CliRunner().invoke(app, ["evaluate", "compare", "--data", str(data[0]), *options])
    assert done.exit_code == 0, done.output
    assert "Methods at one click" in done.output and "felzenszwalb wins on" in done.output
