"""Runs a task: every case once, in several processes or on Ray, going on where it stopped.

`results.jsonl` grows by a line for each case as soon as it is scored; a case that failed is a line with its reason and
is tried again by the next run. `run.json` holds the protocol, and a folder is refused to a run with another one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymask.core.errors import InputError, OptionError
from anymask.core.files import write_aside
from anymask.core.images import write_image
from anymask.evaluate import report
from anymask.evaluate.contract import Case, Table, Task
from anymask.evaluate.workers import score_cases

if TYPE_CHECKING:
    from anymask.predict.ray_engine import RaySettings

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a run came to. summary: numbers. failed: case to reason. problems: what could not even be a case."""

    summary: dict[str, Any]
    tables: list[Table]
    num_scored: int
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_json(self, task: Task) -> dict[str, Any]:
        """The result complete with every choice that led to it."""
        return {
            **self.summary,
            "scored": self.num_scored,
            "failed": self.failed,
            "problems": self.problems,
            **header(task),
        }


def header(task: Task) -> dict[str, Any]:
    """Task, method, protocol and data of a run, as stored."""
    from anymask import __version__

    description = {"task": task.name, "method": task.method, "protocol": asdict(task.protocol), "data": task.describe()}
    return json.loads(json.dumps({**description, "anymask": __version__}, default=str))


def run_task(
    task: Task,
    out: Path | None = None,
    workers: int | RaySettings = 1,
    num_worst: int = 12,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Score every case of a task and write `results.jsonl`, `summary.json`, tables, plots and the worst cases to `out`.

    Raises InputError where there is nothing to score, where `out` holds a run with other choices, or where not one
    case could be scored; single cases that cannot are named in the outcome. workers: processes here, or Ray.
    """
    if isinstance(workers, int) and workers < 1:
        raise OptionError(f"--workers must be 1 or more, got {workers}.")
    cases = task.cases()
    if not cases:
        raise InputError("there is nothing to score: " + ("; ".join(task.problems[:5]) or "no case was found."))
    doubled = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if doubled:
        raise InputError(f"two cases have one name: {', '.join(sorted(doubled)[:5])}.")
    rows = _begin(task, out) if out else {}
    names = {case.name for case in cases}
    rows = {name: row for name, row in rows.items() if name in names}
    failed: dict[str, str] = {}
    waiting = [case for case in cases if case.name not in rows]
    file = (out / "results.jsonl").open("a") if out else None
    try:
        for case, (row, reason) in score_cases(task, waiting, workers):
            line: dict[str, Any] = {"case": case.name, "source": case.source}
            if row is None:
                failed[case.name] = reason
                line["error"] = reason
            else:
                rows[case.name] = line = {**line, **row}
            if file:
                file.write(json.dumps(line) + "\n")
                file.flush()
            progress(len(rows) + len(failed), len(cases))
    finally:
        if file:
            file.close()
    if not rows:
        first = next(iter(failed.items()))
        raise InputError(f"none of the {len(cases)} cases could be scored; the first, {first[0]}: {first[1]}")
    summary = task.summarise([rows[case.name] for case in cases if case.name in rows])
    outcome = Outcome(summary, task.tables(summary), len(rows), failed, list(task.problems))
    if out:
        _write(task, out, outcome, cases, rows, num_worst)
    return outcome


def _begin(task: Task, out: Path) -> dict[str, dict[str, Any]]:
    """Make or check the folder; rows that an earlier run with the same choices left."""
    out.mkdir(parents=True, exist_ok=True)
    now, noted = header(task), out / "run.json"
    if noted.exists():
        before = json.loads(noted.read_text())
        differs = [key for key in now if before.get(key) != now[key]]
        if differs:
            raise InputError(f"{out} holds a run with another {', '.join(differs)}; choose another --out.")
    else:
        with write_aside(noted) as part:
            part.write_text(json.dumps(now, indent=1) + "\n")
    rows, results = {}, out / "results.jsonl"
    if results.exists():
        text = results.read_text()
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a run that was killed while writing it
                continue
            if "error" not in row:
                rows[row["case"]] = row
        if text and not text.endswith("\n"):
            with results.open("a") as file:
                file.write("\n")
    return rows


def _write(
    task: Task, out: Path, outcome: Outcome, cases: list[Case], rows: dict[str, dict[str, Any]], num_worst: int
) -> None:
    with write_aside(out / "summary.json") as part:
        part.write_text(json.dumps(outcome.as_json(task), indent=1) + "\n")
    report.write_tables(outcome.tables, out)
    report.draw_all(task.plots(outcome.summary), out)
    ranked = sorted((c for c in cases if "quality" in rows.get(c.name, {})), key=lambda c: rows[c.name]["quality"])
    for rank, case in enumerate(ranked[:num_worst], 1):
        picture = task.picture(case, rows[case.name])
        if picture is not None:
            (out / "worst").mkdir(exist_ok=True)
            write_image(out / "worst" / f"{rank:02d}-{case.name.replace('/', '_')}.png", picture)
