"""Proves: a run goes on where it stopped, never mixes two protocols, and names every case that failed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anymask.core.errors import InputError
from anymask.evaluate import workers
from anymask.evaluate.contract import Case, Curve, Plot, Table, Task
from anymask.evaluate.report import latex, markdown, text
from anymask.evaluate.runner import run_task


@dataclass(frozen=True)
class Choices:
    factor: int = 2


@dataclass
class Doubling(Task):
    """Doubles numbers; a negative one cannot be scored. Notes what it was asked in a file, for processes share none."""

    numbers: list[int]
    log: Path
    protocol: Choices = field(default_factory=Choices)
    method: str = "plain"
    name: str = "doubling"

    def cases(self) -> list[Case]:
        return [Case(f"n{n}", "s", n) for n in self.numbers]

    def score(self, case: Case) -> dict[str, Any]:
        with self.log.open("a") as file:
            file.write(f"{case.name}\n")
        if case.payload < 0:
            raise InputError("it is negative.")
        return {"value": case.payload * self.protocol.factor, "quality": case.payload}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"sum": sum(row["value"] for row in rows)}

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        return [Table("Sums & more", ("who", "sum"), [("us_1", float(summary["sum"])), ("them", None)], "A note.")]

    def plots(self, summary: dict[str, Any]) -> list[Plot]:
        return [Plot("A line", "x", "y", [Curve("a", [0, 1], [0, 1]), Curve("b", [0, 1], [1, 0])])]

    def picture(self, case: Case, row: dict[str, Any]) -> np.ndarray:
        return np.full((4, 4, 3), row["quality"], np.uint8)


@pytest.mark.parametrize("workers", [1, 2])
def test_goes_on_where_it_stopped(tmp_path: Path, workers: int) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    outcome = run_task(Doubling([1, 2, -3], log), out, workers)
    assert outcome.summary == {"sum": 6} and outcome.failed == {"n-3": "it is negative."}
    with (out / "results.jsonl").open("a") as file:
        file.write('{"case": "n7", "val')  # killed while writing
    log.unlink()
    outcome = run_task(Doubling([1, 2, -3, 7], log), out, workers, num_worst=2)
    assert outcome.summary == {"sum": 20} and sorted(log.read_text().split()) == ["n-3", "n7"]
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines() if line.endswith("}")]
    assert {row["case"] for row in rows} == {"n1", "n2", "n-3", "n7"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["protocol"] == {"factor": 2} and summary["failed"] == {"n-3": "it is negative."}
    assert [p.name for p in sorted((out / "worst").iterdir())] == ["01-n1.png", "02-n2.png"]
    assert (out / "a-line.png").stat().st_size > 1000


def test_another_protocol_needs_another_folder(tmp_path: Path) -> None:
    run_task(Doubling([1], tmp_path / "log"), tmp_path / "out")
    with pytest.raises(InputError, match="another protocol"):
        run_task(Doubling([1], tmp_path / "log", Choices(3)), tmp_path / "out")


def test_nothing_scored_is_an_error_not_a_zero(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n-1: it is negative"):
        run_task(Doubling([-1], tmp_path / "log"))
    with pytest.raises(InputError, match="nothing to score"):
        run_task(Doubling([], tmp_path / "log"))
    with pytest.raises(InputError, match="one name: n1"):
        run_task(Doubling([1, 1], tmp_path / "log"))


def test_tables_in_three_dialects() -> None:
    table = Table("Sums & more", ("who", "sum"), [("us_1", 1.25), ("them", None)], "A note.")
    assert "| us_1 | 1.2 |" in markdown(table) and "| them | – |" in markdown(table) and "A note." in markdown(table)
    assert r"us\_1 & 1.2 \\" in latex(table) and r"\toprule" in latex(table)
    assert "them    –" in text(table)


def test_what_takes_longest_begins_first_where_several_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "_in_processes", lambda task, cases, num: iter([case.name for case in cases]))
    cases = [Case("a", "s", None), Case("b", "s", None, effort=7), Case("c", "s", None, effort=9)]
    task = Doubling([], tmp_path / "log")
    assert list(workers.score_cases(task, cases, 2)) == ["c", "b", "a"]
