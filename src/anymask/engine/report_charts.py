"""The charts of the report page, each as one SVG text; drawn with matplotlib in the manner of `data.plots`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from anymask.data.check import SetReport
from anymask.data.plots import GRID, INK, SERIES, SOFT, STYLE, figure_of, require_matplotlib
from anymask.data.readers.photo import Problems
from anymask.engine.corrections import PAPER_SHARES
from anymask.engine.report import Report
from anymask.engine.report_details import TIME_BIN_SECONDS, Details
from anymask.engine.tables import STAGES

STAGE_COLOURS = {0: SERIES[7], 1: SERIES[0], 2: SERIES[1], 3: SERIES[2]}
PAPER_SECONDS = (34.0, 14.0)  # a mask at the start and the end of stage 1 (PAPER §4.1)
HINT_SECONDS = 30.0  # after this, people go on with the next (PAPER §4.2)
_HALF = (4.9, 2.7)  # inches
_MOST_SCORES = 4  # lines in one chart


def rounds_chart(report: Report) -> dict[str, str]:
    """Time per mask and masks per photo, by round."""
    labels = [f"round {s.round}\nstage {s.stage}" for s in report.stages]
    colours = [STAGE_COLOURS[s.stage] for s in report.stages]
    charts = {}
    if any(s.seconds_per_mask for s in report.stages):
        with _chart(_HALF, "Time per mask", "seconds, mean of people") as (axes, done):
            timed = [i for i, s in enumerate(report.stages) if s.seconds_per_mask is not None]
            seconds_each = [report.stages[i].seconds_per_mask or 0.0 for i in timed]
            _bars(axes, [labels[i] for i in timed], seconds_each, [colours[i] for i in timed])
            _references(axes, dict(zip(("paper, first masks: 34 s", "paper, end of stage 1: 14 s"), PAPER_SECONDS)))
            charts["seconds"] = done()
    with _chart(_HALF, "Masks per photo", "mean, prefilled ones included") as (axes, done):
        _bars(axes, labels, [s.masks_per_image for s in report.stages], colours)
        charts["masks"] = done()
    return charts


def seconds_chart(details: Details) -> str | None:
    """How long masks took, by stage, with the 30-second rule."""
    if not details.seconds:
        return None
    with _chart(_HALF, "How long a mask takes", "share of timed masks") as (axes, done):
        longest = max(len(counts) for counts in details.seconds.values())
        for stage, counts in details.seconds.items():
            shares = np.pad(np.array(counts, float), (0, longest - len(counts))) / sum(counts)
            edges = TIME_BIN_SECONDS * np.arange(longest + 1)
            _steps(axes, shares, edges, stage)
        axes.axvline(HINT_SECONDS, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(HINT_SECONDS, 1.0, " 30 s: move on", transform=axes.get_xaxis_transform(), va="top", color=SOFT)
        axes.set_xlim(0, TIME_BIN_SECONDS * longest)
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
        axes.set_xlabel("seconds")
        _percent(axes)
        _legend(axes, len(details.seconds))
        return done()


def corrections_chart(details: Details) -> str | None:
    """Share of automatic masks above each IoU with what people made of them, beside the paper's two points."""
    compared = {stage: c for stage, c in details.compared.items() if c.num_pairs}
    if not compared:
        return None
    with _chart(_HALF, "Automatic against corrected masks", "share of pairs above an IoU") as (axes, done):
        at = np.linspace(0.5, 0.999, 200)
        lowest = min(PAPER_SHARES.values())
        for stage, pairs in compared.items():
            shares = [pairs.share_above(float(iou)) or 0.0 for iou in at]
            lowest = min(lowest, *shares)
            axes.plot(at, shares, color=STAGE_COLOURS[stage], linewidth=2, label=f"stage {stage}")
        axes.plot(list(PAPER_SHARES), list(PAPER_SHARES.values()), "D", color=INK, markersize=5, label="paper")
        for iou, share in PAPER_SHARES.items():
            axes.annotate(f"{share:.0%}", (iou, share), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xlim(0.5, 1)
        axes.set_ylim(max(0.0, np.floor(10 * lowest - 0.5) / 10), 1.04)
        axes.set_xlabel("IoU")
        _percent(axes)
        _legend(axes, len(compared) + 1, loc="lower left")
        return done()


def corrected_chart(details: Details) -> str | None:
    """How far off those masks were that had to be corrected."""
    compared = {stage: c for stage, c in details.compared.items() if c.edited_ious}
    if not compared:
        return None
    with _chart(_HALF, "The corrected ones alone", "share of corrected masks, by IoU before and after") as (axes, done):
        edges = np.linspace(0, 1, 21)
        for stage, pairs in compared.items():
            shares = np.histogram(pairs.edited_ious, edges)[0] / len(pairs.edited_ious)
            _steps(axes, shares, edges, stage)
        axes.set_xlim(0, 1)
        axes.set_xlabel("IoU")
        _percent(axes)
        _legend(axes, len(compared), loc="upper left")
        return done()


def models_chart(details: Details) -> str | None:
    """Scores of each model version on the held-out split."""
    names = [name for model in details.models for name in model.scores]
    shown = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))[:_MOST_SCORES]
    if not shown:
        return None
    with _chart(_HALF, "The model, version by version", "scores on the held-out split") as (axes, done):
        at = np.arange(len(details.models))
        for i, name in enumerate(shown):
            values = [model.scores.get(name, np.nan) for model in details.models]
            axes.plot(at, values, "-o", color=SERIES[i], linewidth=1.8, markersize=5, label=name)
        words = [m.name + ("" if not m.rounds else f"\nround {', '.join(map(str, m.rounds))}") for m in details.models]
        axes.set_xticks(at, words)
        axes.margins(x=0.12, y=0.18)
        _legend(axes, len(shown))
        return done()


def days_chart(details: Details) -> str | None:
    """Tasks that were finished each day."""
    if len(details.days) < 2:
        return None
    import datetime

    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    with _chart(_HALF, "Throughput", "tasks finished a day (UTC)") as (axes, done):
        first, last = details.days[0][0], details.days[-1][0]
        axes.bar([day - first for day, _ in details.days], [num for _, num in details.days], 0.8, color=SERIES[0])
        at = sorted({0, (last - first) // 2, last - first})
        dates = [datetime.date(1970, 1, 1) + datetime.timedelta(days=first + day) for day in at]
        axes.set_xticks(at, [f"{date:%d %b %Y}" for date in dates])
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        return done()


def shapes_chart(details: Details) -> str | None:
    """Centres, masks per photo, sizes and concavities by stage: the paper's figures 5 and 6."""
    sets = [
        SetReport(f"stage {stage}, {STAGES[stage]}", "store", Problems(), {**summary, "masks": _total(summary)})
        for stage, summary in details.shapes.items()
        if summary["masks"]
    ]
    if not sets:
        return None
    import matplotlib as mpl

    with mpl.rc_context({**STYLE, "svg.hashsalt": "anymask"}):
        return _to_svg(figure_of(sets, " "))


def _total(summary: dict[str, Any]) -> int:
    return round(summary["photos"] * summary["masks_per_photo"]["mean"])


@contextmanager
def _chart(size_in: tuple[float, float], title: str, what: str) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes with a title and what their height means, and a function that gives the finished SVG."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": "anymask"}):
        figure = Figure(figsize=size_in, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", pad=20)
        axes.text(0, 1.04, what, transform=axes.transAxes, fontsize=8, color=SOFT)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        yield axes, lambda: _to_svg(figure)


def _to_svg(figure: Any) -> str:
    """The figure as an `<svg>` element that grows with the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _steps(axes: Any, shares: np.ndarray, edges: np.ndarray, stage: int) -> None:
    """A histogram of one stage."""
    axes.stairs(shares, edges, fill=True, color=STAGE_COLOURS[stage], alpha=0.25)
    axes.stairs(shares, edges, color=STAGE_COLOURS[stage], linewidth=1.5, label=f"stage {stage}")


def _bars(axes: Any, labels: list[str], values: list[float], colours: list[str]) -> None:
    at = np.arange(len(values))
    drawn = axes.bar(at, values, 0.62, color=colours)
    axes.bar_label(drawn, [f"{value:.1f}" for value in values], padding=2, fontsize=8)
    if len(labels) > 6:
        labels = [label.replace("round ", "").replace("\nstage ", "·") for label in labels]
    axes.set_xticks(at, labels)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, max(len(values), 3) - 0.4)
    axes.margins(y=0.15)


def _references(axes: Any, values: dict[str, float]) -> None:
    """Dashed lines with words at their right end, beyond the bars."""
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.5 * (right - left))
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    for word, value in values.items():
        axes.axhline(value, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(word, (1, value), (0, 3), ha="right", fontsize=7.5, color=SOFT, **place)


def _percent(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _legend(axes: Any, num: int, loc: str = "best") -> None:
    if num > 1:
        axes.legend(frameon=False, fontsize=8, loc=loc, handlelength=1.4)
