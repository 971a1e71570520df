"""Methods side by side under the same prompts: which is better, on how many of the data sets? (PAPER §7.1, Fig. 9)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymask.core.errors import OptionError
from anymask.evaluate import report
from anymask.evaluate.contract import Bars, Plot, Table
from anymask.evaluate.points import Points, click_curves
from anymask.evaluate.runner import Outcome, run_task
from anymask.evaluate.workers import one_cluster

if TYPE_CHECKING:
    from anymask.predict.ray_engine import RaySettings

KEYS = {"clicks_1": "one click", "box": "a box"}
CLICKS_TO = "noc_"  # keys of the number of clicks to reach an IoU: the fewer, the better


def compare(
    points: Points,
    methods: Sequence[str],
    out: Path | None = None,
    workers: int | RaySettings = 1,
    progress: Callable[[str, int, int], None] = lambda method, done, total: None,
) -> tuple[list[Table], dict[str, Outcome]]:
    """Run the same cases under each method, the first being the one that is compared with the others.

    out: gets a folder for each method, the tables, and figures: mIoU over clicks, differences by set. Returns a table
    for one click, one for a box, and with several clicks one for each number of clicks to an IoU; and every outcome.
    """
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise OptionError(f"give two methods or more, each once, got {', '.join(methods) or 'none'}.")
    if 1 not in points.protocol.clicks:
        raise OptionError("methods are compared after one click; keep 1 among the clicks.")
    outcomes = {}
    with one_cluster(workers):
        for method in methods:
            folder = None if out is None else out / method.replace(":", "-").replace("/", "_")
            outcomes[method] = run_task(
                replace(points, method=method),
                folder,
                workers,
                progress=lambda done, total, method=method: progress(method, done, total),  # type: ignore[misc]
            )
    mean = outcomes[methods[0]].summary["mean"]
    several = max(points.protocol.clicks) > 1
    keys = [key for key in mean if key in KEYS or (several and key.startswith(CLICKS_TO))]
    tables = [table_of(outcomes, list(methods), key) for key in keys]
    if out is not None:
        report.write_tables(tables, out)
        bars = [differences(outcomes, list(methods), key) for key in keys if key in KEYS]
        curves = [c for m in methods for c in click_curves(m, outcomes[m].summary, points.protocol)]
        lines = [Plot("mIoU over clicks", "clicks", "mIoU (%)", curves)]
        report.draw_all([*bars, *lines * several], out)
    return tables, outcomes


def table_of(outcomes: dict[str, Outcome], methods: list[str], key: str) -> Table:
    """One number by set and method; the last row: on what share of the sets the first method is better."""
    names, values = _by_set(outcomes, methods, key)
    first, others = methods[0], methods[1:]
    fewer = key.startswith(CLICKS_TO)
    rows: list[tuple[Any, ...]] = [(name, *(values[m][i] for m in methods)) for i, name in enumerate(names)]
    rows.append(("mean", *(sum(values[m]) / len(names) for m in methods)))
    wins = {m: sum(a < b if fewer else a > b for a, b in zip(values[first], values[m])) for m in others}
    rows.append((f"{first} wins on", None, *(f"{100 * wins[m] / len(names):.0f} %" for m in others)))
    masks = sum(outcomes[first].summary["sets"][name]["masks"] for name in names)
    if fewer:
        title = f"Clicks to {key.removeprefix(CLICKS_TO)} % IoU"
        what = "Mean number of clicks, at most the last one; a draw is no win"
    else:
        title, what = f"Methods at {KEYS[key]}", "mIoU in % of the selected mask"
    return Table(title, ("set", *methods), rows, f"{what}; {masks} masks, means over sets with equal weight.")


def differences(outcomes: dict[str, Outcome], methods: list[str], key: str) -> Bars:
    """How much better the first method is than each other one, set by set, the largest mean lead first."""
    names, values = _by_set(outcomes, methods, key)
    first = methods[0]
    leads = {f"− {m}": [a - b for a, b in zip(values[first], values[m])] for m in methods[1:]}
    order = sorted(range(len(names)), key=lambda i: -sum(lead[i] for lead in leads.values()))
    panels = {title: [lead[i] for i in order] for title, lead in leads.items()}
    return Bars(f"{first} at {KEYS[key]}", "difference of mIoU (points)", [names[i] for i in order], panels)


def _by_set(outcomes: dict[str, Outcome], methods: list[str], key: str) -> tuple[list[str], dict[str, list[float]]]:
    """Sets that all methods have, and each method's number for each of them."""
    sets = {method: outcomes[method].summary["sets"] for method in methods}
    names = sorted(set.intersection(*(set(by_set) for by_set in sets.values())))
    return names, {method: [sets[method][name][key] for name in names] for method in methods}
