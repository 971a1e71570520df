"""`anymask engine`: a store of photos and masks for people and workers; make it, fill it, look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli import engine_release, engine_report, engine_study
from anymask.cli.engine_shared import AsJson, Database, Project, open_project, require_parts

app = typer.Typer(help="Build a data set: a store of photos, masks, tasks and reviews.", no_args_is_help=True)

app.command("report", no_args_is_help=True)(engine_report.report)
app.command("study", no_args_is_help=True)(engine_study.study)
app.command("release", no_args_is_help=True)(engine_release.release)


@app.command("init", no_args_is_help=True)
def init(
    database: Database,
    project: Annotated[str, typer.Option("--project", "-p", help="Name of the project.")] = "default",
) -> None:
    """Make a store, upgrade an older one, or add a project to one.

    **Examples**

    `anymask engine init masks.db`

    `anymask engine init postgresql://anna@server/masks --project street`
    """
    from anymask.engine.store import make_store

    require_parts()
    store = make_store(database, project)
    print(f"{database} is ready; projects: {', '.join(store.project_names())}")
    store.close()


@app.command("add", no_args_is_help=True)
def add(
    database: Database,
    photos: Annotated[list[str], typer.Argument(help="Photos, folders, globs in quotes. They stay where they are.")],
    project: Project = None,
) -> None:
    """Add photos, each with a task to annotate it. Repeating it adds what is new.

    Exit code 1 where a photo cannot be read; the others are added.

    **Example**

    `anymask engine add masks.db photos/`
    """
    import sys

    from anymask.engine.photos import add_photos

    store, project_id = open_project(database, project)
    added = add_photos(store, project_id, photos)
    print(f"{added.num_new:,} photos added, {added.num_known:,} were there; {added.num_tasks:,} tasks")
    for place, problem in added.problems:
        print(f"anymask: {place}: {problem}", file=sys.stderr)
    store.close()
    if added.problems:
        raise typer.Exit(1)


@app.command("status", no_args_is_help=True)
def show_status(database: Database, project: Project = None, as_json: AsJson = False) -> None:
    """Show photos, masks and what is waiting or in somebody's hands now.

    **Example**

    `anymask engine status masks.db`
    """
    from anymask.engine.report import status

    store, project_id = open_project(database, project)
    now, current = status(store, project_id), store.current_round(project_id)
    store.close()
    if as_json:
        place = {"round": current.number, "stage": current.stage}
        print(json.dumps({**place, **now.__dict__}, indent=2))
        return
    print(f"round {current.number}, stage {current.stage} ({current.stage_name})")
    print(f"{now.num_images:,} photos, {now.num_unreadable:,} unreadable; {now.num_masks:,} masks")
    engine_report.print_tasks(now.tasks)


@app.command("export", no_args_is_help=True)
def export(
    database: Database,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files; made if needed.")],
    format_name: Annotated[
        str, typer.Option("--format", "-f", help="One of `anymask convert`: sa1b, coco, yolo, cvat, label_studio …")
    ] = "sa1b",
    project: Project = None,
    stage: Annotated[int | None, typer.Option(help="Masks of this stage only: 0 imported, 1, 2 or 3.")] = None,
    state: Annotated[str | None, typer.Option(help="proposed, accepted or rejected. Default: not rejected.")] = None,
) -> None:
    """Write the current masks in a format.

    **Example**

    `anymask engine export masks.db -o out/ --format coco --state accepted`
    """
    from anymask.engine.exchange import export_masks

    store, project_id = open_project(database, project)
    done = export_masks(store, project_id, output, format_name, stage=stage, state=state)
    store.close()
    print(f"{done.num_photos:,} photos, {done.num_masks:,} masks: {done.num_files:,} files in {output}")


@app.command("import", no_args_is_help=True)
def import_(
    database: Database,
    source: Annotated[Path, typer.Argument(help="A file or folder of masks.")],
    format_name: Annotated[
        str | None, typer.Option("--format", "-f", help="Its format, where it is not recognised.")
    ] = None,
    project: Project = None,
    stage: Annotated[int, typer.Option(help="Stage that the masks count to; 0 is imported.")] = 0,
) -> None:
    """Save masks from files to photos of the same name; all of them, or none where one does not fit.

    **Example**

    `anymask engine import masks.db annotations.json`
    """
    from anymask.engine.exchange import import_masks

    store, project_id = open_project(database, project)
    done = import_masks(store, project_id, source, format_name, stage=stage)
    store.close()
    print(f"{done.num_photos:,} photos, {done.num_masks:,} masks added, {done.num_known:,} were there")
