"""Methods side by side under the same prompts: which is better, on how many of the data sets?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anymask.core.errors import OptionError
from anymask.evaluate.contract import Table
from anymask.evaluate.points import Points
from anymask.evaluate.runner import Outcome, run_task

KEYS = {"clicks_1": "one click", "box": "a box"}


def compare(
    points: Points,
    methods: Sequence[str],
    out: Path | None = None,
    num_workers: int = 1,
    progress: Callable[[str, int, int], None] = lambda method, done, total: None,
) -> tuple[list[Table], dict[str, Outcome]]:
    """Run the same cases under each method, the first being the one that is compared with the others.

    out: a folder for each method inside it. Returns a table for one click and one for a box, and every outcome.
    """
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise OptionError(f"give two methods or more, each once, got {', '.join(methods) or 'none'}.")
    if 1 not in points.protocol.clicks:
        raise OptionError("methods are compared after one click; keep 1 among the clicks.")
    outcomes = {}
    for method in methods:
        folder = None if out is None else out / method.replace(":", "-").replace("/", "_")
        outcomes[method] = run_task(
            replace(points, method=method),
            folder,
            num_workers,
            progress=lambda done, total, method=method: progress(method, done, total),  # type: ignore[misc]
        )
    keys = [key for key in KEYS if key in outcomes[methods[0]].summary["mean"]]
    return [table_of(outcomes, list(methods), key) for key in keys], outcomes


def table_of(outcomes: dict[str, Outcome], methods: list[str], key: str) -> Table:
    """mIoU of the selected mask by set and method; the last row: on what share of the sets the first method wins."""
    sets = {method: outcomes[method].summary["sets"] for method in methods}
    names = sorted(set.intersection(*(set(by_set) for by_set in sets.values())))
    first, others = methods[0], methods[1:]
    rows: list[tuple[Any, ...]] = [(name, *(sets[m][name][key] for m in methods)) for name in names]
    rows.append(("mean", *(sum(sets[m][name][key] for name in names) / len(names) for m in methods)))
    shares = {m: sum(sets[first][name][key] > sets[m][name][key] for name in names) / len(names) for m in others}
    rows.append((f"{first} wins on", None, *(f"{100 * shares[m]:.0f} %" for m in others)))
    masks = sum(sets[first][name]["masks"] for name in names)
    note = f"mIoU in % of the selected mask; {masks} masks, means over sets with equal weight."
    return Table(f"Methods at {KEYS[key]}", ("set", *methods), rows, note)
