"""Proves: subsets of a training set are what they say, and a sweep trains its cells, judges them alike, and goes on."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from train_data import write_discs
from typer.testing import CliRunner

from anymask.cli.ablation import SWEEPS
from anymask.cli.main import app
from anymask.cli.train import find_recipe
from anymask.core.errors import InputError, OptionError
from anymask.data.readers import Photo, index_shards, read_shards
from anymask.data.shards import write_shard
from anymask.data.subset import subset
from anymask.evaluate.ablation import Cell, Sweep, Trained, figure_of, folder_name, load_sweep
from anymask.train.config import load_config

TINY = """
model: lite
loader_workers: 0
precision: fp32
device: cpu
curves: false
phases:
  - {until_step: 1, image_size: 64, cells: 4, photos: 1, masks: 2, num_clicks: 0, num_empty: 0, min_area_px: 1}
"""
SWEEP = """
title: Parts
cells:
  - {name: half, settings: [share=0.5]}
  - {name: manual twice, settings: ["repeats={manual: 2}"]}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six photos, two of them in another set."""
    photos = list(read_shards([write_discs(tmp_path / "made")]))
    for name, part in (("manual", photos[:2]), ("automatic", photos[2:])):
        named = [Photo(p.name, name, p.encoded, p.hw, p.rles, p.labels) for p in part]
        write_shard(named, tmp_path / "data" / f"{name}-000.tar")
    return tmp_path / "data"


@pytest.mark.parametrize("indexed", [False, True])
def test_subsets(data: Path, indexed: bool) -> None:
    photos = index_shards([data]) if indexed else list(read_shards([data]))
    assert subset(photos, 1, {}, 0) is photos
    names = {share: [p.name for p in subset(photos, share, {}, 3)] for share in (0.01, 0.34, 0.5, 1)}
    assert [len(found) for found in names.values()] == [1, 2, 3, 6]
    assert set(names[0.01]) < set(names[0.34]) < set(names[0.5])
    assert len({tuple(p.name for p in subset(photos, 0.5, {}, seed)) for seed in range(9)}) > 1
    tenfold = subset(photos, 1, {"manual": 10, "automatic": 1}, 0)
    assert Counter(p.source for p in tenfold) == {"manual": 20, "automatic": 4}
    assert Counter(p.source for p in subset(photos, 1, {"manual": 2}, 0)) == {"manual": 4}
    with pytest.raises(OptionError, match="repeats names semi; the sets that were read are automatic, manual"):
        subset(photos, 1, {"semi": 1}, 0)


def test_shares_and_repeats_are_checked(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY)
    assert load_config(tmp_path / "r.yaml", ["repeats={a: 2, b: 1}"]).repeats == {"a": 2, "b": 1}
    for wrong in ("share=0", "share=1.5", "repeats={a: 0}"):
        with pytest.raises(OptionError, match=wrong.split("=")[0]):
            load_config(tmp_path / "r.yaml", [wrong])


def test_a_sweep_trains_judges_and_goes_on(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "parts.yaml").write_text(SWEEP)
    out = tmp_path / "out"
    words = ["evaluate", "ablation", str(tmp_path / "parts.yaml"), "--data", str(data), "--out", str(out)]
    words += ["--truth", str(data), "--recipe", str(tmp_path / "tiny.yaml"), "--max-photos", "1"]
    words += ["--points", "clicks=[1,2]", "--points", "max_masks=1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert re.search(r"\nhalf +3 ", done.output) and re.search(r"\nmanual twice +4 ", done.output)
    assert json.loads((out / "half" / "points" / "run.json").read_text())["protocol"]["clicks"] == [1, 2]
    assert (out / "sweep.png").stat().st_size > 1000 and "| half | 3 |" in (out / "table.md").read_text()
    model = out / "manual-twice" / "train" / "model.safetensors"
    assert model.read_bytes() != (out / "half" / "train" / "model.safetensors").read_bytes()
    before, table = model.stat().st_mtime_ns, (out / "table.md").read_text()
    again = CliRunner().invoke(app, [*words, "--data", str(tmp_path / "gone")])  # all is trained: nothing is read
    assert again.exit_code == 0, again.output
    assert model.stat().st_mtime_ns == before and (out / "table.md").read_text() == table
    other = CliRunner().invoke(app, [*words, "--set", "lr=1e-5"])
    assert isinstance(other.exception, InputError) and "another sweep: train differ" in str(other.exception)


@pytest.mark.parametrize("name", ["volume", "stages", "encoder"])
def test_shipped_sweeps(name: str) -> None:
    sweep = load_sweep(SWEEPS / f"{name}.yaml")
    for cell in sweep.cells:
        load_config(find_recipe(cell.recipe or sweep.recipe), [*sweep.settings, *cell.settings])
    done = CliRunner().invoke(
        app, ["evaluate", "ablation", name, "--data", "a b", "--truth", "dev", "--out", "o", "--dry-run"]
    )
    lines = done.output.splitlines()
    assert len(lines) == len(sweep.cells) and all(line.startswith("anymask train --config ") for line in lines)
    assert f"--data 'a b' --out o/{folder_name(sweep.cells[0])}/train" in lines[0]


def test_the_figure_has_the_published_lines() -> None:
    mean = {"oracle": 60.0, "clicks_1": 50.0, "clicks_2": 61.0, "noc_85": 3.0, "box": 70.0}
    cells = [Cell("1 %", 1.0), Cell("10 %", 10.0)]
    plot = figure_of(Sweep("Volume", "share", True, cells=cells), [Trained(cell, 1, mean) for cell in cells])
    assert [(c.name, list(c.x)) for c in plot.curves] == [("1 click, oracle", [1, 10]), ("2 clicks", [1, 10])]
    assert plot.log_x and not plot.ticks
    assert figure_of(Sweep("Stages"), [Trained(Cell("manual"), 1, mean)]).ticks == ("manual",)


def test_bad_sweeps(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    for text, message in (
        ("title: a\ncells: []", "different names"),
        ("title: a\ncells: [{name: x}, {name: X}]", "different names"),
        ("titel: a", "titel"),
    ):
        file.write_text(text)
        with pytest.raises(OptionError, match=message):
            load_sweep(file)
    done = CliRunner().invoke(
        app, ["evaluate", "ablation", "volum", "--data", "a", "--truth", "b", "--out", str(tmp_path)]
    )
    assert isinstance(done.exception, OptionError) and "volume" in str(done.exception)
