"""Proves: photos are counted by region and income, what is not known stays apart, and what fits nothing is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import photo_with
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import InputError
from anymask.data.shards import write_shard
from anymask.evaluate.geography import read_places

PLACES = """photo,country,region,income
a,Kenya,Africa,lower middle
b,Italy,Europe,High income
c,Italy,Europe,high
nobody,Chile,Latin America & Caribbean,high
e,,,low
"""


def test_command_counts_beside_the_published_table(tmp_path: Path, photo: np.ndarray) -> None:
    disc = photo[..., 0] > 150
    photos = [photo_with([disc] * n, photo, name, "s") for n, name in enumerate("abcde", 1)]
    write_shard(photos, tmp_path / "s.tar")
    (tmp_path / "places.csv").write_text(PLACES)
    done = CliRunner().invoke(
        app,
        ["evaluate", "geography", "--data", str(tmp_path / "s.tar"), "--places", str(tmp_path / "places.csv"),
         "--json", str(tmp_path / "g.json")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "g.json").read_text())
    europe = found["region"]["groups"]["Europe"]
    assert (europe["photos"], europe["masks"], europe["countries"]) == (2, 5, 1)
    assert europe["share"] == pytest.approx(200 / 3) and found["region"]["unknown"] == 2
    assert {k: v["photos"] for k, v in found["income"]["groups"].items()} == {"middle": 1, "high": 2, "low": 1}
    assert "49.8" in done.output and "Asia & Oceania" in done.output  # published, also for groups that are not here
    assert any("there is no photo 'nobody'" in line for line in found["problems"])
    assert any(line.startswith("d: not in") for line in found["problems"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("photo,age\na,1\n", "region or income"), ("photo,region\na,Europe\na,Africa\n", "twice")],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_places(tmp_path / "p.csv")
