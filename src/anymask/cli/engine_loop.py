"""`anymask engine`, the loop: annotate by simulation, detector, prefill, automatic masks, retrain, run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.engine import Database, Project, open_project

if TYPE_CHECKING:
    from anymask.engine.stages import WorkedOff

Worker = Annotated[str, typer.Option(help="Name that the store knows the worker by; unique.")]
Truth = Annotated[
    list[Path], typer.Option("--truth", help="Photos with masks, any layout of `data check`. May repeat.")
]


def add_to(app: typer.Typer) -> None:
    """Make these the verbs of `anymask engine` too."""
    app.command("simulate", no_args_is_help=True)(simulate)


def simulate(
    database: Database,
    truth: Truth,
    project: Project = None,
    worker: Worker = "simulated",
    satisfied: Annotated[float, typer.Option(help="IoU at which the annotator clicks no more.")] = 0.9,
    clicks: Annotated[int, typer.Option(help="Clicks before the brush is taken.")] = 5,
    max_masks: Annotated[int, typer.Option(help="Most prominent objects of each photo.")] = 24,
) -> None:
    """Play the annotator: work off the annotation tasks with clicks from ground truth and the paper's times.

    Photos are matched by content. Exit code 1 where a photo is gone, changed, or has no truth: its task is skipped.

    **Example**

    `anymask engine simulate masks.db --truth my_photos/`
    """
    from anymask.engine.annotator import SimulatedAnnotator
    from anymask.engine.models import first_version, load_version
    from anymask.engine.simulated_clicks import Hand
    from anymask.engine.truth import read_truth

    store, project_id = open_project(database, project)
    hand, known = Hand(satisfied, clicks), read_truth(truth, max_masks)
    model = first_version(store, project_id)
    annotator = SimulatedAnnotator(store, load_version(model), known, worker, hand, model_version_id=model.id)
    done = annotator.work(project_id, say)
    store.close()
    tell(done, "annotated")


def tell(done: WorkedOff, verb: str) -> None:
    """One line of what was done; exit code 1 where photos were left out."""
    print(f"{done.num_photos:,} photos {verb}, {done.num_masks:,} masks")
    if done.skipped:
        print(f"anymask: {len(done.skipped)} photos were skipped; the reasons are above.", file=sys.stderr)
        raise typer.Exit(1)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
