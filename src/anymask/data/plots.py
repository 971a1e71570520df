"""The paper's figures 5 and 6 for any data set, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anymask.core.errors import MissingExtraError
from anymask.core.files import write_aside
from anymask.data.statistics import CELLS

if TYPE_CHECKING:
    from anymask.data.check import SetReport

INK, SOFT, GRID = "#1b1f24", "#626b76", "#e4e7eb"
SERIES = ("#1f5fa8", "#e07b28", "#2f8f6b", "#b0437b", "#7a5cc2", "#8a7a1f", "#3a9bb8", "#7d7d7d")
HEAT = ("#f6f8fa", "#d3e3ee", "#94bfd6", "#4a8fbd", "#1f5fa8", "#0f3470")
MAPS_PER_ROW = 4
WIDTH_IN, LEFT_IN, RIGHT_IN = 10.0, 0.5, 0.55  # right: the numbers of the colour bar
MAP_GAP_IN, CHART_GAP_IN, CHART_IN = 0.2, 0.6, 1.95  # the last: height of a chart
HEAD_IN, FOOT_IN, CHART_HEAD_IN, MAP_HEAD_IN = 0.75, 0.6, 0.7, 0.3
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0,
    "xtick.major.size": 3,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


def require_matplotlib() -> None:
    """MissingExtraError where there is no matplotlib; call it before long work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "the figure is drawn with matplotlib: pip install 'anymask[data]'. Or leave it out: --no-plot."
        ) from error


def draw_report(reports: list[SetReport], path: Path) -> None:
    """Heat maps of mask centres, and masks per photo, size and concavity of each set, as PNG."""
    require_matplotlib()
    import matplotlib as mpl

    with mpl.rc_context(STYLE), write_aside(path) as part:
        figure_of(reports).savefig(part, format="png")


def figure_of(reports: list[SetReport], title: str | None = None) -> Any:
    """The same as a matplotlib figure, to be drawn within `STYLE`. title: by default what is in the sets."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps, charts, height_in = _places(len(reports))
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)

    def axes_at(place: tuple[float, float, float, float]) -> Any:
        left, top, width, height = place
        return figure.add_axes((left / WIDTH_IN, 1 - (top + height) / height_in, width / WIDTH_IN, height / height_in))

    _draw_title(figure, reports, height_in, title)
    smooth = [_smoothed(np.array(r.summary["centers"], np.float32), r.summary["masks"]) for r in reports]
    top = max(2.0, float(np.percentile([s.max() for s in smooth], 75)))
    for i, place in enumerate(maps):
        image = _draw_map(axes_at(place), reports[i], smooth[i], top, SERIES[i % len(SERIES)], len(reports) > 1)
    left, from_top, width, height = maps[min(len(maps), MAPS_PER_ROW) - 1]
    bar = figure.colorbar(image, cax=axes_at((left + width + 0.1, from_top, 0.07, height)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7.5, pad=2)
    bar.ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
    counts, sizes, concavities = map(axes_at, charts)
    _draw_counts(counts, reports)
    _draw_histogram(sizes, reports, "relative_size", "Relative size", "√(mask area / photo area)")
    _draw_histogram(concavities, reports, "concavity", "Concavity", "1 − mask area / hull area")
    return figure


Place = tuple[float, float, float, float]  # left, top, width, height in inches, from the top left corner


def _places(num_maps: int) -> tuple[list[Place], list[Place], float]:
    """Where maps and charts go, and the height of the figure: one set in one row, several with the maps above."""
    usable = WIDTH_IN - LEFT_IN - RIGHT_IN
    if num_maps == 1:
        top = HEAD_IN + CHART_HEAD_IN - 0.2
        map_width, left = CHART_IN / 0.9, LEFT_IN - 0.2
        width = (WIDTH_IN - 0.2 - left - map_width - 1.0 - 2 * CHART_GAP_IN) / 3.35
        charts = []
        at = left + map_width + 1.0
        for chart_width in (1.35 * width, width, width):  # the first has words below it
            charts.append((at, top, chart_width, CHART_IN))
            at += chart_width + CHART_GAP_IN
        return [(left, top, map_width, CHART_IN)], charts, top + CHART_IN + FOOT_IN
    columns = min(num_maps, MAPS_PER_ROW)
    width = (usable - (columns - 1) * MAP_GAP_IN) / columns
    step = 0.75 * width + MAP_HEAD_IN + 0.1
    maps = []
    for i in range(num_maps):
        row, column = divmod(i, MAPS_PER_ROW)
        maps.append((LEFT_IN + column * (width + MAP_GAP_IN), HEAD_IN + MAP_HEAD_IN + row * step, width, 0.75 * width))
    top = HEAD_IN + -(-num_maps // MAPS_PER_ROW) * step + CHART_HEAD_IN + 0.1
    width = (WIDTH_IN - LEFT_IN - 0.2 - 2 * CHART_GAP_IN) / 3
    charts = [(LEFT_IN + i * (width + CHART_GAP_IN), top, width, CHART_IN) for i in range(3)]
    return maps, charts, top + CHART_IN + FOOT_IN


def _draw_title(figure: Any, reports: list[SetReport], height_in: float, title: str | None) -> None:
    photos = sum(r.summary["photos"] for r in reports)
    masks = sum(r.summary["masks"] for r in reports)
    problems = sum(len(r.problems) for r in reports)
    name = f"{reports[0].name}: " if len(reports) == 1 else ""
    found = "no problems" if not problems else f"{problems:,} problem{'s' * (problems > 1)}"
    left = (LEFT_IN - 0.2 * (len(reports) == 1)) / WIDTH_IN
    row = 1 - 0.33 / height_in
    found = found if title is None else ""
    title = title or f"{name}{photos:,} photos, {masks:,} masks"
    figure.text(left, row, title, fontsize=13, fontweight="bold", va="center")
    figure.text(1 - 0.2 / WIDTH_IN, row, found, fontsize=8.5, color=SOFT, va="center", ha="right")
    if len(reports) > 1:
        what = "Density of mask centres in the photo; 1 is an even spread"
        figure.text(left, 1 - 0.63 / height_in, what, color=SOFT, va="center")


def _draw_map(axes: Any, report: SetReport, density: np.ndarray, top: float, colour: str, is_one_of_many: bool) -> Any:
    """One heat map; its heading carries the colour of the set in the charts."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("centers", HEAT)
    image = axes.imshow(
        density, extent=(0, 1, 1, 0), cmap=colours, vmin=0, vmax=top, interpolation="bicubic", aspect="auto"
    )
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=True, color=GRID)
    if not is_one_of_many:
        axes.set_title("Mask centres", loc="left", fontsize=9.5, fontweight="bold", pad=18)
        axes.text(0, 1.03, "density; 1 is an even spread", transform=axes.transAxes, fontsize=8, color=SOFT)
        return image
    square = dict(marker="s", markersize=6, color=colour, clip_on=False, transform=axes.transAxes)
    width_in = axes.get_position().width * WIDTH_IN
    head = 1 + 0.11 / (axes.get_position().height * axes.figure.get_figheight())
    axes.plot([0.045 / width_in], [head], **square)
    axes.text(0.15 / width_in, head, report.name, transform=axes.transAxes, fontsize=9, va="center_baseline")
    masks = f"{report.summary['masks']:,} masks"
    axes.text(1, head, masks, transform=axes.transAxes, fontsize=8, color=SOFT, ha="right", va="center_baseline")
    axes.set(xlim=(0, 1), ylim=(1, 0))
    return image


def _smoothed(density: np.ndarray, num_masks: int) -> np.ndarray:
    """Few masks leave the cells noisy: the fewer, the wider the blur. Mirrored at the border, to keep the sum."""
    sigma = float(np.clip(2 * CELLS / max(1, num_masks) ** 0.5, 0.7, 2.5))
    return np.asarray(cv2.GaussianBlur(density, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))


def _draw_counts(axes: Any, reports: list[SetReport]) -> None:
    bins = reports[0].summary["masks_per_photo"]["bins"]
    width = 0.8 / len(reports)
    for i, report in enumerate(reports):
        shares = report.summary["masks_per_photo"]["shares"]
        at = np.arange(len(bins)) + (i - (len(reports) - 1) / 2) * width
        axes.bar(at, shares, width * 0.9, color=SERIES[i % len(SERIES)])
    axes.set_xticks(np.arange(len(bins)), bins, fontsize=6.8 if len(reports) == 1 else 7.5)
    axes.tick_params(axis="x", length=0)
    top = max(max(r.summary["masks_per_photo"]["shares"]) for r in reports)
    _dress(axes, "Masks per photo", "masks", "share of photos", top)


def _draw_histogram(axes: Any, reports: list[SetReport], key: str, title: str, label: str) -> None:
    top = 0.0
    for i, report in enumerate(reports):
        values, edges = report.summary[key]["shares"], np.array(report.summary[key]["edges"])
        colour = SERIES[i % len(SERIES)]
        if len(reports) == 1:
            axes.bar((edges[1:] + edges[:-1]) / 2, values, np.diff(edges) * 0.86, color=colour)
        else:
            axes.plot((edges[1:] + edges[:-1]) / 2, values, color=colour, linewidth=1.6, solid_joinstyle="round")
        top = max(top, *values)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    _dress(axes, title, label, "share of masks", top)


def _dress(axes: Any, title: str, x_label: str, y_label: str, top: float) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=18)
    axes.text(0, 1.03, y_label, transform=axes.transAxes, fontsize=8, color=SOFT)
    axes.set_xlabel(x_label, fontsize=8, labelpad=4)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0, max(top, 0.01) * 1.06)
