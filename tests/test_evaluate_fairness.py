"""Proves: groups get the mean of their own masks with intervals that cover it, and a bad row of the CSV is named."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate import photo_with
from test_evaluate_instances import Squares
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import InputError
from anymask.data.shards import write_shard
from anymask.evaluate.fairness import Fairness, FairnessProtocol, bootstrap, disjoint_pairs, read_attributes


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        low, high = bootstrap(rng.normal(50, 10, 60), 0.9, 500, i)
        hits += low <= 50 <= high
    assert 0.83 < hits / 200 < 0.96
    low, high = bootstrap(np.full(10, 7.0), 0.95, 100, 0)
    assert low == high == 7
    values = rng.normal(0, 1, 400)
    narrow = bootstrap(values, 0.5, 4000, 1)
    wide = bootstrap(values, 0.99, 4000, 1)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]
    assert (wide[1] - wide[0]) / 2 == pytest.approx(2.576 * values.std() / 20, rel=0.1)


def test_pairs_of_groups_whose_intervals_do_not_meet() -> None:
    def interval(low: float, high: float) -> dict[str, Any]:
        return {"k": {"mean": (low + high) / 2, "low": low, "high": high}}

    groups = {"a": interval(10, 20), "b": interval(19, 30), "c": interval(1, 9)}
    assert disjoint_pairs(groups, "k") == [("c", "a"), ("c", "b")]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of one disc and one square under two groups; rows that fit nothing besides."""
    module = types.ModuleType("squares")
    module.make = Squares  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "squares", module)
    image = np.zeros((128, 128, 3), np.uint8)
    y, x = np.mgrid[:128, :128]
    square = (abs(x - 40) < 16) & (abs(y - 40) < 16)
    thin = (abs(x - 90) < 16) & (abs(y - 40) < 3)
    photos = [photo_with([square, thin], image, f"p{i}", "s") for i in range(4)]
    write_shard(photos, tmp_path / "people-000.tar")
    lines = ["photo,mask,gender presentation,age"]
    lines += [f"p{i},0,feminine,young" for i in range(4)] + [f"p{i},1,masculine,{'old' * (i % 2)}" for i in range(4)]
    lines += ["p9,0,feminine,", "p0,7,feminine,", "p0,0,feminine,"]
    (tmp_path / "people.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_command_prints_groups_beside_the_published_ones(people: Path) -> None:
    words = ["evaluate", "fairness", "--data", str(people / "people-000.tar"), "--model", "squares:make"]
    words += ["--attributes", str(people / "people.csv"), "--json", str(people / "o.json"), "--out", str(people / "o")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    result = json.loads((people / "o.json").read_text())
    gender, age = result["attributes"]["gender presentation"], result["attributes"]["age"]
    assert {g: n["masks"] for g, n in gender["groups"].items()} == {"feminine": 4, "masculine": 4}
    assert gender["groups"]["feminine"]["clicks_1"]["mean"] > gender["groups"]["masculine"]["clicks_1"]["high"]
    assert gender["disjoint"]["clicks_1"] == [["masculine", "feminine"]] and age["unknown"] == 2
    assert "54.4 ± 1.7" in (people / "o" / "table.md").read_text() and result["masks"] == 8
    assert [p.split(": ", 1)[1] for p in result["problems"]] == [
        "there is no photo 'p9'",
        "p0 has masks 0 … 1, got '7'",
        "mask 0 of p0 is listed twice",
    ]


def test_a_csv_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("photo,mask\np0,0\n")
    with pytest.raises(InputError, match="one or more attributes, got photo, mask"):
        read_attributes(tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_attributes(tmp_path / "nowhere.csv")
    (tmp_path / "b.csv").write_text("photo,mask,age\np0,0,young\n")
    with pytest.raises(InputError, match="people or clothing"):
        Fairness([], tmp_path / "b.csv", FairnessProtocol(published="dogs")).cases()
