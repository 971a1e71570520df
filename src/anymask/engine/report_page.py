"""The report as one HTML file that needs nothing else: no scripts, no fonts, no addresses."""

from __future__ import annotations

import datetime
from html import escape
from pathlib import Path

from anymask.core.files import write_aside
from anymask.data.plots import require_matplotlib
from anymask.engine import report_charts as charts
from anymask.engine.corrections import PAPER_SHARES
from anymask.engine.report import Report, make_report
from anymask.engine.report_costs import Price, computing_section, people_seconds, people_section
from anymask.engine.report_details import Details, make_details
from anymask.engine.report_parts import STYLE, card, grid, hours, section, stage_cell, table
from anymask.engine.store import Store

_OUTCOMES = {"as they were": "#2f8f6b", "corrected": "#e0a82e", "rejected": "#b0437b"}


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
        people_section(report, details, price),
        computing_section(report, price),
        _notes(details),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}: data engine report</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>"
    )


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
        tiles.append((hours(seconds), f"of people's time, {3600 * report.num_masks / seconds:,.0f} masks an hour"))
    if report.cpu_seconds:
        each = report.cpu_seconds / max(1, report.num_masks)
        tiles.append((hours(report.cpu_seconds), f"of processor time, {each:.2f} s a mask"))
    if price is not None and seconds:
        each = price.amount(seconds, report.cpu_seconds) / max(1, report.num_masks)
        whom = "people and computing" if price.per_core_hour else "people"
        amount = price.of(seconds, report.cpu_seconds)
        tiles.append((amount, f"for {whom}, {each:.4f} {escape(price.currency)} a mask"))
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{big}</b><span>{small}</span></div>" for big, small in tiles)
    ) + "</div>"


def _rounds(report: Report, details: Details) -> str:
    if not report.stages:
        return section("Rounds", "No masks yet.")
    rows = [
        [
            stage_cell(stage.stage, f"{stage.round}"),
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
    return section(
        "Rounds",
        "Masks in their current version, rejected ones apart. Time is that of people on masks they drew themselves; "
        "prefilled masks do not count towards it.",
        card(table(heads.split("|"), rows)) + grid(drawn),
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
        rows.append([stage_cell(stage), f"{looked:,}", *(f"{num:,}" for num in counts), *shares, mean, outcome])
    if not rows:
        return section(
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
    return section(
        "Quality of automatic masks",
        "What people made of masks that a model had proposed. One accepted as it is counts as IoU 1. The paper "
        "finds 94 % of pairs above 0.90 and 97 % above 0.75, people among themselves reach 85 to 91 % IoU.",
        card(table(heads, rows) + f"<p class=note>{dots}</p>")
        + grid([charts.corrections_chart(details), charts.corrected_chart(details)]),
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
    return section(
        "The model",
        "Versions that were trained on the masks of this project. A version is promoted only if it is not worse.",
        grid([charts.models_chart(details)], card(table(heads, rows))),
    )


def _shapes(details: Details) -> str:
    drawn = charts.shapes_chart(details)
    if drawn is None:
        return ""
    measured = ", ".join(f"{num:,} of stage {stage}" for stage, num in details.num_measured.items())
    return section(
        "What the masks look like",
        "Where masks lie, how many a photo has, how large and how ragged they are, as in the paper's figures 5 and 6. "
        f"Masks per photo are counted over all; the rest is measured on whole photos chosen at random: {measured}. "
        "Concavity weighs all sizes alike.",
        card(drawn),
    )


def _notes(details: Details) -> str:
    sampled = ", ".join(
        f"{len(c.edited_ious):,} of {c.num_edited:,} corrected masks of stage {stage}"
        for stage, c in details.compared.items()
        if c.num_edited
    )
    lines = [
        "Stages are the paper's: 1 assisted-manual, 2 semi-automatic, 3 automatic; 0 is what was imported.",
        "An edited mask stays one of its stage; it counts to the round of its latest version.",
        "Computing is in the cost where an hour of a core has a price; the table of people is of their time alone.",
        f"IoU was measured on {sampled}." if sampled else "",
    ]
    items = "".join(f"<li>{line}</li>" for line in lines if line)
    return f"<h2>How it was counted</h2><ul class=note>{items}</ul>"
