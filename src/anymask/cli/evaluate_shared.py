"""What the commands of `anymask evaluate` share: options, who works, and what is told at the end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.core.errors import OptionError, unknown_name

if TYPE_CHECKING:
    from rich.progress import Progress

    from anymask.evaluate.contract import Task
    from anymask.predict.ray_engine import RaySettings

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for results.jsonl, tables, plots, worst cases; goes on there."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the numbers, with every protocol choice, to this file.")
]
Workers = Annotated[int, typer.Option(help="Processes.", min=1)]
Engine = Annotated[str, typer.Option(help="`local` (processes of this machine) or `ray` (any number).")]
RayAddress = Annotated[
    str | None, typer.Option(help="Ray cluster to join, as `auto` or `host:6379`; else one on this machine.")
]
Model = Annotated[str, typer.Option(help="A name, a weights file, or module:name of something that makes a Segmenter.")]
Precision = Annotated[str, typer.Option(help="`auto`, `fp32` or `bf16`.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `mps`.")]
Set = Annotated[list[str], typer.Option("--set", help="A protocol field, such as max_distance=0.01. May repeat.")]
Strict = Annotated[bool, typer.Option(help="Exit with 1 if anything was missing or could not be scored.")]
MaxPhotos = Annotated[int | None, typer.Option(help="Only so many photos (of each set).", min=1)]


def workforce(workers: int, engine: str, ray_address: str | None, device: str = "cpu") -> int | RaySettings:
    """Who scores: processes of this machine, or Ray with so many workers."""
    if engine not in ("local", "ray"):
        raise unknown_name("engine", engine, ["local", "ray"])
    if engine == "local":
        if ray_address is not None:
            raise OptionError("--ray-address is for --engine ray; add that.")
        return workers
    from anymask.predict.ray_engine import RaySettings

    threads = max(1, (os.cpu_count() or 1) // workers) if ray_address is None else 1
    return RaySettings(workers, ray_address, threads, num_gpus=0 if device == "cpu" else None)


def progress_bar() -> Progress:
    """On standard error: cases done, time spent and left."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def run(task: Task, out: Path | None, json_file: Path | None, workers: int | RaySettings, strict: bool) -> None:
    """Run a task with a progress bar, print its tables, and name what is missing or failed."""
    from anymask.core.files import write_aside
    from anymask.evaluate.report import text as as_text
    from anymask.evaluate.runner import run_task

    with progress_bar() as bar:
        shown = bar.add_task(task.name, total=None)
        outcome = run_task(
            task, out, workers, progress=lambda done, total: bar.update(shown, completed=done, total=total)
        )
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(json_file) as part:
            part.write_text(json.dumps(outcome.as_json(task), indent=1) + "\n")
    for table in outcome.tables:
        print(as_text(table) + "\n")
    troubles = [*outcome.problems, *(f"{name}: {reason}" for name, reason in outcome.failed.items())]
    print(f"{outcome.num_scored} scored, {len(outcome.failed)} failed, {len(outcome.problems)} missing or unusable.")
    for trouble in troubles[:20]:
        print(f"anymask: {trouble}", file=sys.stderr)
    if len(troubles) > 20:
        print(f"anymask: … and {len(troubles) - 20} more; all of them are in --json or --out.", file=sys.stderr)
    if out is not None:
        print(f"all of it: {out}")
    if strict and troubles:
        raise typer.Exit(1)
