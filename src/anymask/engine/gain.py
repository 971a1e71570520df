"""What the loop gained: the model's quality from version to version on held-out photos, as numbers and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymask.core.files import write_aside
from anymask.data.plots import GRID, INK, SERIES, SOFT, STYLE, require_matplotlib
from anymask.engine.models import ModelVersion
from anymask.engine.report import Report

NAMES = {1: "manual", 2: "semi-automatic", 3: "automatic"}


@dataclass(frozen=True)
class Point:
    """A version on the curve. name: for people. score: `HeldOutScore` as JSON. num_masks: that it was trained on."""

    name: str
    score: dict[str, Any]
    num_masks: int
    is_promoted: bool


def gain_curve(made: Sequence[ModelVersion]) -> list[Point]:
    """The model before the first retraining, then each version that was made, in order."""
    points = [Point("before", made[0].facts["held_out"]["before"], 0, True)] if made else []
    for version in made:
        stage = NAMES.get(version.facts.get("stage", 0), version.name)
        name = stage if len(points) == 1 else f"+ {stage}"
        num_masks = sum(version.facts["num_masks"].values())
        points.append(Point(name, version.facts["held_out"]["after"], num_masks, version.is_promoted))
    return points


def gain_table(points: Sequence[Point], report: Report) -> str:
    """Lines for a terminal: the curve, what it comes to, and people's time by stage."""
    lines = ["model            masks  one click (selected / oracle)  1, 2, 4, … clicks  clicks to target  reached"]
    for p in points:
        s = p.score
        curve = s.get("curve", math.nan)
        mark = "" if p.is_promoted else "  (not promoted)"
        lines.append(
            f"{p.name:16} {p.num_masks:>5,}  {s['selected']:>8.1f} / {s['oracle']:.1f} {curve:>25.1f} "
            f"{s['clicks']:>17.2f} {s['reached']:>12.1f} %{mark}"
        )
    serving = [p for p in points if p.is_promoted][-1]
    first, last = points[0].score, serving.score
    lines.append(
        f"from first to serving model: {last['selected'] - first['selected']:+.1f} points selected, "
        f"{last['oracle'] - first['oracle']:+.1f} oracle, clicks {100 * (last['clicks'] / first['clicks'] - 1):+.1f} %"
    )
    for stage in report.stages:
        seconds = stage.seconds_per_mask
        time = "" if seconds is None else f", {seconds:.1f} s a mask of people"
        each = report.cpu_seconds_per_mask(stage.stage)
        computing = "" if each is None else f", {each:.1f} processor seconds a mask"
        lines.append(
            f"stage {stage.stage} ({stage.stage_name}): {stage.num_masks:,} masks on {stage.num_images:,} photos, "
            f"{stage.num_by_models:,} by models{time}{computing}"
        )
    for kind in dict.fromkeys(cost.kind for cost in report.costs):
        spent = sum(cost.cpu_seconds for cost in report.costs if cost.kind == kind)
        lines.append(f"computing, {kind}: {spent:,.0f} processor seconds")
    return "\n".join(lines)


def draw_gain(points: Sequence[Point], path: Path, clicks: int, target: float) -> None:
    """The curve as PNG: mIoU after one click, and clicks to a good mask. Hollow: a version that was not promoted."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.6), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        x = list(range(len(points)))
        labels = [f"{p.name}\n{p.num_masks:,} masks" if p.num_masks else f"{p.name}\n " for p in points]
        _line(left, x, points, "oracle", "best of three", SERIES[0])
        _line(left, x, points, "selected", "most confident", SERIES[1])
        left.set_title("mIoU after one click, %", loc="left", color=INK, fontsize=10)
        left.legend(frameon=False, loc="lower right", labelcolor=INK)
        _line(right, x, points, "clicks", "", SERIES[2])
        title = f"clicks to {100 * target:.0f} % IoU, {clicks} at most"
        right.set_title(title, loc="left", color=INK, fontsize=10)
        for axes in (left, right):
            axes.set_xticks(x, labels)
            axes.set_xlim(-0.4, len(points) - 0.6)
            axes.margins(y=0.25)
            _keep_apart(axes, 1.0 if axes is right else 4.0)
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="x", labelcolor=SOFT)
        with write_aside(path) as part:
            figure.savefig(part, format="png")


def _keep_apart(axes: Any, least: float) -> None:
    """An axis that spans at least so much, so that a hundredth does not look like a mountain."""
    low, high = axes.get_ylim()
    more = max(0.0, least - (high - low)) / 2
    axes.set_ylim(low - more, high + more)


def _line(axes: Any, x: list[int], points: Sequence[Point], key: str, label: str, color: str) -> None:
    y = [p.score[key] for p in points]
    axes.plot(x, y, color=color, linewidth=1.8, label=label or None)
    faces = [color if p.is_promoted else "white" for p in points]
    axes.scatter(x, y, s=34, c=faces, edgecolors=color, linewidths=1.4, zorder=3)
    for at, value, before in zip(x, y, [*y[:1], *y]):
        text = f"{value:.2f}" if key == "clicks" else f"{value:.1f}"
        dx = 9 if before > value else 0  # beside a line that falls
        axes.annotate(text, (at, value), (dx, 8), textcoords="offset points", ha="center", color=INK, fontsize=8)
