"""`anymask engine study`: how good are the automatic masks? Opens the tasks, and tells what came of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.engine_shared import AsJson, Database, Project, open_project

if TYPE_CHECKING:
    from anymask.engine.study import StudyResult


def study(
    database: Database,
    project: Project = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Photos of a new study.")] = 500,
    stage: Annotated[int, typer.Option(help="Whose automatic masks: 3, or 2 for prefilled ones.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the choice of photos.")] = 0,
    new: Annotated[bool, typer.Option("--new", help="Begin another study, where there is one.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write every pair to a .json or .csv file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the quality of automatic masks: photos at random, people correct every mask, both are compared.

    The first time, photos are chosen and a review task is opened for each. After that the same command shows how far
    it is and the shares: the paper finds 94 % of pairs above 0.90 IoU and 97 % above 0.75.

    **Examples**

    `anymask engine study masks.db --num 500`

    `anymask engine study masks.db --export pairs.csv`
    """
    from anymask.engine.study import latest_study, open_study, result_of, write_result

    store, project_id = open_project(database, project)
    current = None if new else latest_study(store, project_id)
    is_new = current is None
    if current is None:
        current = open_study(store, project_id, num, stage=stage, seed=seed)
    found = result_of(store, project_id, current)
    store.close()
    if export is not None:
        write_result(found, export)
    if as_json:
        print(json.dumps({key: value for key, value in found.to_json().items() if key != "masks"}, indent=2))
        return
    if is_new:
        print(f"{found.num_photos:,} photos chosen at random, each has a review task now.")
    _print_result(found)
    if found.num_done < found.num_photos:
        print(
            "Next: people run through the review queue (`anymask serve --store DB`), accept, correct or reject every "
            "mask and finish the photo; then run this command again."
        )


def _print_result(found: StudyResult) -> None:
    compared = found.compared
    print(f"{found.num_done:,} of {found.num_photos:,} photos are done")
    if not compared.num_pairs:
        return
    print(
        f"{compared.num_pairs:,} masks compared: {compared.num_same:,} as they were, {compared.num_edited:,} corrected"
        f"; {compared.num_rejected:,} rejected and {found.num_open:,} not looked at, which count nowhere"
    )
    for iou, paper in ((0.90, 0.94), (0.75, 0.97)):
        low, high = found.intervals[iou]
        share = compared.share_above(iou) or 0.0
        print(f"  IoU above {iou:.2f}: {share:.1%} ({low:.1%} to {high:.1%}), paper {paper:.0%}")
    print(f"  mean IoU {compared.mean_iou:.3f}; people among themselves reach 0.85 to 0.91")
