"""Tables as text, Markdown and LaTeX, and curves as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anymask.core.errors import MissingExtraError
from anymask.evaluate.contract import Plot, Table


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


def draw(plot: Plot, path: Path) -> None:
    """A figure of curves as PNG; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install 'anymask[evaluate]'") from error
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for curve in plot.curves:
        axes.plot(curve.x, curve.y, marker="." if len(curve.x) < 30 else "", label=curve.name)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, title=plot.name)
    axes.grid(alpha=0.3)
    if len(plot.curves) > 1:
        axes.legend()
    figure.savefig(path, dpi=120)


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
