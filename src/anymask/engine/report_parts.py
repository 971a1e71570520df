"""Pieces of the report page: its style, sections, cards and tables as HTML."""

from __future__ import annotations

from anymask.engine.report_charts import STAGE_COLOURS
from anymask.engine.tables import STAGES

STYLE = """
:root{--ink:#1b1f24;--soft:#626b76;--line:#e4e7eb;--wash:#f6f8fa;--blue:#1f5fa8}
*{box-sizing:border-box}
body{margin:0;background:var(--wash);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}
h2{font-size:19px;margin:44px 0 4px}
.lead,h2+p{color:var(--soft);margin:0 0 16px;max-width:76ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin:24px 0 0}
.tile,.card{background:#fff;border:1px solid var(--line);border-radius:10px}
.tile{padding:14px 16px}
.tile b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:16px}
.card{padding:16px;overflow-x:auto}
.card+.card,.grid+.card,.card+.grid{margin-top:16px}.grid .card+.card{margin-top:0}
.card svg{display:block;width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:13.5px}
th{text-align:right;font-weight:600;color:var(--soft);font-size:12.5px;padding:4px 8px 8px;white-space:nowrap}
td{text-align:right;padding:7px 8px;border-top:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:2px}
.dot{display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:8px}
.bar{display:flex;height:12px;border-radius:3px;overflow:hidden;min-width:180px;background:var(--line)}
.note{color:var(--soft);font-size:13px;max-width:90ch}.note li{margin:4px 0}
@media(max-width:560px){.grid{grid-template-columns:1fr}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""


def section(title: str, text: str, content: str = "") -> str:
    """A heading, a line of text, the content."""
    return f"<h2>{title}</h2><p>{text}</p>{content}"


def card(content: str) -> str:
    """A white card."""
    return f"<div class=card>{content}</div>"


def grid(drawn: list[str | None], *cards: str) -> str:
    """Cards beside each other: drawings, where there are any, and cards."""
    content = "".join(card(svg) for svg in drawn if svg) + "".join(cards)
    return f"<div class=grid>{content}</div>" if content else ""


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Heads and rows of cells, HTML already."""
    head = "".join(f"<th>{word}</th>" for word in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def stage_cell(stage: int, round_number: str = "") -> str:
    """The dot and the words of a stage, and of its round."""
    words = (f"round {round_number}, " if round_number else "") + f"stage {stage}, {STAGES[stage]}"
    return f'<i class=dot style="background:{STAGE_COLOURS[stage]}"></i>{words}'


def hours(seconds: float) -> str:
    """A duration for people."""
    if seconds < 120:
        return f"{seconds:,.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"
