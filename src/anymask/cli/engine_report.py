"""`anymask engine report`: a project in numbers, in words, as JSON or as a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.engine_shared import AsJson, Database, Project, open_project

if TYPE_CHECKING:
    from anymask.engine.report import Report


def report(
    database: Database,
    project: Project = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts, one file; needs matplotlib.")] = None,
    hourly: Annotated[
        float | None, typer.Option(min=0, help="What an hour of a person costs; the page tells costs then.")
    ] = None,
    core_hourly: Annotated[float, typer.Option(min=0, help="What an hour of a core costs, with --hourly.")] = 0.0,
    currency: Annotated[str, typer.Option(help="Of these.")] = "€",
) -> None:
    """Count masks, time per mask and masks per image by round and stage, and reviews.

    The page also compares automatic with corrected masks, shows sizes, shapes and places of masks, models, people and
    costs. Shapes are measured on photos chosen at random. Computing is the processor time of the engine's commands.

    **Examples**

    `anymask engine report masks.db --json`

    `anymask engine report masks.db --html report.html --hourly 9.50 --core-hourly 0.05`
    """
    from anymask.core.errors import OptionError
    from anymask.engine.corrections import compare_corrected
    from anymask.engine.report import make_report

    if hourly is not None and html is None:
        raise OptionError("--hourly is for the page; add --html report.html.")
    store, project_id = open_project(database, project)
    counted = make_report(store, project_id)
    compared = compare_corrected(store, project_id)
    if html is not None:
        from anymask.engine.report_costs import Price
        from anymask.engine.report_page import write_report

        price = None if hourly is None else Price(hourly, currency, core_hourly)
        name = project or store.project_names()[0]
        write_report(store, project_id, name, html, price=price)
        print(f"{html}: open it in a browser", file=sys.stderr)
    store.close()
    if as_json:
        print(json.dumps({**counted.to_json(), "automatic_against_corrected": compared.to_json()}, indent=2))
    elif html is None:
        _print_report(counted)
        if compared.num_pairs:
            print(
                f"automatic masks that people looked at: {compared.num_same:,} as they were, {compared.num_edited:,} "
                f"corrected, {compared.num_rejected:,} rejected; IoU above 0.90: {compared.share_above(0.9):.1%} "
                f"(paper 94%), above 0.75: {compared.share_above(0.75):.1%} (paper 97%)"
            )


def print_tasks(tasks: dict[str, dict[str, int]]) -> None:
    """Numbers by kind and state, a line each."""
    for kind, states in sorted(tasks.items()):
        print(f"{kind}: " + ", ".join(f"{num:,} {state}" for state, num in sorted(states.items())))


def _print_report(report: Report) -> None:
    print(
        f"{report.num_images:,} photos, {report.num_unreadable:,} unreadable, {report.num_annotated:,} with masks; "
        f"{report.num_masks:,} masks"
    )
    for stage in report.stages:
        seconds = stage.seconds_per_mask
        time = "no times" if seconds is None else f"{seconds:.1f} s a mask"
        print(
            f"round {stage.round}, stage {stage.stage} ({stage.stage_name}): {stage.num_masks:,} masks on "
            f"{stage.num_images:,} photos, {stage.masks_per_image:.1f} each, {time}\n"
            f"  {stage.num_by_people:,} by people, {stage.num_by_models:,} by models, {stage.num_imported:,} imported; "
            f"{stage.num_accepted:,} accepted, {stage.num_edited:,} edited, {stage.num_rejected:,} rejected"
        )
    if report.reviews:
        print("reviews: " + ", ".join(f"{num:,} {action}" for action, (num, _) in sorted(report.reviews.items())))
    for cost in report.costs:
        print(
            f"computing, round {cost.round}, {cost.kind}: {cost.cpu_seconds:,.1f} processor seconds, "
            f"{cost.num_photos:,} photos"
        )
    if report.costs and report.num_masks:
        each = report.cpu_seconds / report.num_masks
        print(f"computing: {report.cpu_seconds:,.0f} processor seconds, {each:,.2f} a mask")
    print_tasks(report.tasks)
