"""Tables as text, Markdown and LaTeX; curves and bars as PNG."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anymask.core.errors import MissingExtraError
from anymask.core.files import write_aside
from anymask.evaluate.contract import Bars, Plot, Table


def markdown(table: Table) -> str:
    """A table in Markdown, with its title and note."""
    lines = [f"### {table.title}", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("| --- |" + " ---: |" * (len(table.columns) - 1))
    lines += ["| " + " | ".join(_cell(v, table.digits) for v in row) + " |" for row in table.rows]
    return "\n".join([*lines, *(["", table.note] if table.note else []), ""])


def latex(table: Table) -> str:
    """A table in LaTeX (booktabs)."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule"]
    lines.append(" & ".join(map(_escape, table.columns)) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(_escape(_cell(v, table.digits)) for v in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([f"% {table.title}. {table.note}".replace("\n", " "), *lines, ""])


def text(table: Table) -> str:
    """A table for a terminal."""
    cells = [list(table.columns), *([_cell(v, table.digits) for v in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in cells
    ]
    return "\n".join([table.title, *lines, *([table.note] if table.note else [])])


def write_tables(tables: Iterable[Table], folder: Path) -> None:
    """`table.md` and `table.tex`."""
    tables = list(tables)
    for name, render in (("table.md", markdown), ("table.tex", latex)):
        with write_aside(folder / name) as part:
            part.write_text("\n".join(render(table) for table in tables))


def draw_all(plots: Iterable[Plot | Bars], folder: Path) -> None:
    """Each figure as a PNG named after it."""
    for plot in plots:
        draw(plot, folder / (re.sub(r"[^a-z0-9.]+", "-", plot.name.lower()).strip("-") + ".png"))


def draw(plot: Plot | Bars, path: Path) -> None:
    """A figure as PNG; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install 'anymask[evaluate]'") from error
    figure = _bars(plot, Figure) if isinstance(plot, Bars) else _curves(plot, Figure)
    figure.savefig(path, dpi=120)


def _curves(plot: Plot, new_figure: Any) -> Any:
    beside = len(plot.curves) > 5  # the names beside the axes, not over the lines
    figure = new_figure(figsize=(8 if beside else 6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    colors: dict[str, Any] = {}
    for curve in plot.curves:
        mark = {"marker": "o", "markersize": 5 if curve.like else 4} if len(curve.x) < 30 else {}
        known = {"color": colors[curve.like], "markerfacecolor": "white"} if curve.like in colors else {}
        (line,) = axes.plot(curve.x, curve.y, label=curve.name, **mark, **known)
        colors[curve.name] = line.get_color()
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, title=plot.name)
    if plot.log_x:
        axes.set_xscale("log")
    if plot.ticks:
        axes.set_xticks(range(len(plot.ticks)), plot.ticks)
    elif all(float(x).is_integer() and x < 30 for curve in plot.curves for x in curve.x) and not plot.log_x:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if len(plot.curves) > 1:
        figure.legend(loc="outside right center") if beside else axes.legend()
    return figure


def _bars(plot: Bars, new_figure: Any) -> Any:
    size = 1.5 + 2.4 * len(plot.panels), 1.4 + 0.24 * len(plot.labels)
    figure = new_figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(plot.panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, plot.panels.items()):
        axes.barh(plot.labels, values, color=["#2a7fb8" if value > 0 else "#d1603d" for value in values])
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=title)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    figure.suptitle(plot.name)
    figure.supxlabel(plot.x_label)
    return figure


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return str(value)


def _escape(value: str) -> str:
    for plain, escaped in (("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("–", "--"), ("#", r"\#")):
        value = value.replace(plain, escaped)
    return value
