"""The report as one HTML file that needs nothing else: no scripts, no fonts, no addresses."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from html import escape
from pathlib import Path

from anymask.core.files import write_aside
from anymask.data.plots import require_matplotlib
from anymask.engine import report_charts as charts
from anymask.engine.corrections import PAPER_SHARES
from anymask.engine.report import Report, make_report
from anymask.engine.report_details import Details, make_details
from anymask.engine.store import Store
from anymask.engine.tables import STAGES

_STYLE = """
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
_OUTCOMES = {"as they were": "#2f8f6b", "corrected": "#e0a82e", "rejected": "#b0437b"}


@dataclass(frozen=True)
class Price:
    """What an hour of a person costs. currency: written behind the number."""

    per_hour: float
    currency: str = "€"

    def of(self, seconds: float) -> str:
        """The price of some seconds, for people."""
        cost = self.per_hour * seconds / 3600
        return f"{cost:,.0f} {self.currency}" if cost >= 100 else f"{cost:,.2f} {self.currency}"


def write_report(
    store: Store, project_id: int, title: str, path: Path, *, price: Price | None = None, num_sampled: int = 3000
) -> None:
    """Count, measure, draw and write. Raises MissingExtraError without matplotlib, before anything is counted."""
    require_matplotlib()
    page = to_html(
        title, make_report(store, project_id), make_details(store, project_id, num_sampled=num_sampled), price
    )
    with write_aside(path) as part:
        part.write_text(page, encoding="utf-8")


def to_html(title: str, report: Report, details: Details, price: Price | None = None) -> str:
    """The page."""
    made = f"{datetime.datetime.now(datetime.UTC):%d %B %Y, %H:%M} UTC"
    parts = [
        f"<h1>{escape(title)}</h1><p class=lead>Data engine report, {made}</p>",
        _tiles(report, details, price),
        _rounds(report, details),
        _quality(details),
        _models(details),
        _shapes(details),
        _people(report, details, price),
        _notes(details),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}: data engine report</title><style>{_STYLE}</style><main>{''.join(parts)}</main></html>"
    )


def people_seconds(report: Report, details: Details) -> float:
    """Time of people: what was kept on tasks and reviews, or on the masks themselves, whichever is longer."""
    on_masks = sum(stage.seconds for stage in report.stages) + sum(seconds for _, seconds in report.reviews.values())
    return max(on_masks, sum(person.seconds for person in details.people))


def _tiles(report: Report, details: Details, price: Price | None) -> str:
    seconds = people_seconds(report, details)
    tiles = [
        (f"{report.num_masks:,}", f"masks on {report.num_annotated:,} of {report.num_images:,} photos"),
        (f"{report.num_masks / max(1, report.num_annotated):.1f}", "masks a photo"),
    ]
    timed = [stage for stage in report.stages if stage.seconds_per_mask is not None]
    if timed:
        latest = timed[-1]
        first = f", {timed[0].seconds_per_mask:.1f} s in round {timed[0].round}" if len(timed) > 1 else ""
        tiles.append((f"{latest.seconds_per_mask:.1f} s", f"a mask by hand in round {latest.round}{first}"))
    pairs = [c for c in details.compared.values() if c.num_pairs]
    if pairs:
        total = sum(c.num_pairs for c in pairs)
        share = sum(c.num_pairs * (c.share_above(0.9) or 0.0) for c in pairs) / total
        tiles.append((f"{share:.0%}", f"of {total:,} checked automatic masks above 0.90 IoU; paper 94 %"))
    if seconds:
        tiles.append((_hours(seconds), f"of people's time, {3600 * report.num_masks / seconds:,.0f} masks an hour"))
    if price is not None and seconds:
        each = price.per_hour * seconds / 3600 / max(1, report.num_masks)
        tiles.append((price.of(seconds), f"for people, {each:.4f} {escape(price.currency)} a mask"))
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{big}</b><span>{small}</span></div>" for big, small in tiles)
    ) + "</div>"


def _rounds(report: Report, details: Details) -> str:
    if not report.stages:
        return _section("Rounds", "No masks yet.")
    rows = [
        [
            _stage(stage.stage, f"{stage.round}"),
            f"{stage.num_images:,}",
            f"{stage.num_masks:,}",
            f"{stage.masks_per_image:.1f}",
            "–" if stage.seconds_per_mask is None else f"{stage.seconds_per_mask:.1f} s",
            f"{stage.num_by_people:,}",
            f"{stage.num_by_models:,}",
            f"{stage.num_imported:,}",
            f"{stage.num_accepted:,}",
            f"{stage.num_edited:,}",
            f"{stage.num_rejected:,}",
        ]
        for stage in report.stages
    ]
    heads = "round and stage|photos|masks|a photo|time a mask|by people|by models|imported|accepted|edited|rejected"
    drawn = [*charts.rounds_chart(report).values(), charts.seconds_chart(details), charts.days_chart(details)]
    return _section(
        "Rounds",
        "Masks in their current version, rejected ones apart. Time is that of people on masks they drew themselves; "
        "prefilled masks do not count towards it.",
        _card(_table(heads.split("|"), rows)) + _grid(drawn),
    )


def _quality(details: Details) -> str:
    rows = []
    for stage, pairs in details.compared.items():
        looked = pairs.num_pairs + pairs.num_rejected
        if not looked:
            continue
        counts = (pairs.num_same, pairs.num_edited, pairs.num_rejected)
        spans = "".join(
            f'<span style="width:{100 * num / looked:.2f}%;background:{colour}" title="{name}: {num:,}"></span>'
            for (name, colour), num in zip(_OUTCOMES.items(), counts)
        )
        shares = [f"{s:.1%}" if (s := pairs.share_above(iou)) is not None else "–" for iou in PAPER_SHARES]
        mean = "–" if pairs.mean_iou is None else f"{pairs.mean_iou:.3f}"
        outcome = f"<div class=bar>{spans}</div>"
        rows.append([_stage(stage), f"{looked:,}", *(f"{num:,}" for num in counts), *shares, mean, outcome])
    if not rows:
        return _section(
            "Quality of automatic masks",
            "Nothing to compare yet: nobody has accepted, corrected or rejected a mask that a model made. "
            "`anymask engine study` opens such tasks on photos chosen at random.",
        )
    paper = [f"{share:.0%}" for share in PAPER_SHARES.values()]
    rows.append(["paper, 500 photos", "≈ 50,000", "", "", "", *paper, "", ""])
    dots = "".join(f'<i class=dot style="background:{colour}"></i>{name} &nbsp; ' for name, colour in _OUTCOMES.items())
    heads = [
        "masks of",
        "checked",
        "as they were",
        "corrected",
        "rejected",
        "IoU &gt; 0.90",
        "IoU &gt; 0.75",
        "mean",
        "",
    ]
    return _section(
        "Quality of automatic masks",
        "What people made of masks that a model had proposed. One accepted as it is counts as IoU 1. The paper "
        "finds 94 % of pairs above 0.90 and 97 % above 0.75, people among themselves reach 85 to 91 % IoU.",
        _card(_table(heads, rows) + f"<p class=note>{dots}</p>")
        + _grid([charts.corrections_chart(details), charts.corrected_chart(details)]),
    )


def _models(details: Details) -> str:
    if not details.models:
        return ""
    names = list(dict.fromkeys(name for model in details.models for name in model.scores))[:6]
    rows = [
        [
            escape(model.name),
            ", ".join(map(str, model.rounds)) or "–",
            "yes" if model.is_promoted else "no",
            *(f"{model.scores[name]:.3f}" if name in model.scores else "–" for name in names),
        ]
        for model in details.models
    ]
    heads = ["version", "served rounds", "promoted", *map(escape, names)]
    return _section(
        "The model",
        "Versions that were trained on the masks of this project. A version is promoted only if it is not worse.",
        _grid([charts.models_chart(details)], _card(_table(heads, rows))),
    )


def _shapes(details: Details) -> str:
    drawn = charts.shapes_chart(details)
    if drawn is None:
        return ""
    measured = ", ".join(f"{num:,} of stage {stage}" for stage, num in details.num_measured.items())
    return _section(
        "What the masks look like",
        "Where masks lie, how many a photo has, how large and how ragged they are, as in the paper's figures 5 and 6. "
        f"Masks per photo are counted over all; the rest is measured on whole photos chosen at random: {measured}. "
        "Concavity weighs all sizes alike.",
        _card(drawn),
    )


def _people(report: Report, details: Details, price: Price | None) -> str:
    if not details.people:
        return ""
    seconds = people_seconds(report, details)
    rows = [
        [
            escape(person.name),
            f"{person.num_photos:,}",
            f"{person.num_reviews:,}",
            _hours(person.seconds) if person.seconds else "–",
            f"{person.seconds / person.num_photos:.0f} s" if person.num_photos and person.seconds else "–",
            *([price.of(person.seconds)] if price else []),
        ]
        for person in details.people[:40]
    ]
    more = len(details.people) - len(rows)
    text = "Time as kept on tasks and reviews."
    timed = [stage for stage in report.stages if stage.seconds_per_mask is not None]
    if timed and seconds:
        by_hand = report.num_masks * (timed[0].seconds_per_mask or 0.0)
        money = f", {price.of(by_hand)}" if price else ""
        text += (
            f" All {report.num_masks:,} masks by hand, at the {timed[0].seconds_per_mask:.1f} s of round "
            f"{timed[0].round}, would have taken {_hours(by_hand)}{money}; it took {_hours(seconds)}"
            f"{f', {price.of(seconds)}' if price else ''}."
        )
    heads = ["who", "tasks finished", "masks reviewed", "time", "a task", *(["cost"] if price else [])]
    foot = f"<p class=note>and {more:,} more</p>" if more > 0 else ""
    return _section("People, time and cost", text, _card(_table(heads, rows) + foot))


def _notes(details: Details) -> str:
    sampled = ", ".join(
        f"{len(c.edited_ious):,} of {c.num_edited:,} corrected masks of stage {stage}"
        for stage, c in details.compared.items()
        if c.num_edited
    )
    lines = [
        "Stages are the paper's: 1 assisted-manual, 2 semi-automatic, 3 automatic; 0 is what was imported.",
        "An edited mask stays one of its stage; it counts to the round of its latest version.",
        "Cost is that of people's time alone; computing is not in it.",
        f"IoU was measured on {sampled}." if sampled else "",
    ]
    items = "".join(f"<li>{line}</li>" for line in lines if line)
    return f"<h2>How it was counted</h2><ul class=note>{items}</ul>"


def _section(title: str, text: str, content: str = "") -> str:
    return f"<h2>{title}</h2><p>{text}</p>{content}"


def _card(content: str) -> str:
    return f"<div class=card>{content}</div>"


def _grid(drawn: list[str | None], *cards: str) -> str:
    content = "".join(_card(svg) for svg in drawn if svg) + "".join(cards)
    return f"<div class=grid>{content}</div>" if content else ""


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{word}</th>" for word in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _stage(stage: int, round_number: str = "") -> str:
    words = (f"round {round_number}, " if round_number else "") + f"stage {stage}, {STAGES[stage]}"
    return f'<i class=dot style="background:{charts.STAGE_COLOURS[stage]}"></i>{words}'


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"
