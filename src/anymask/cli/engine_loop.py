"""`anymask engine`, the loop: annotate by simulation, detector, prefill, automatic masks, retrain, run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.engine_shared import Database, Project, open_project

if TYPE_CHECKING:
    from anymask.engine.stages import WorkedOff

Worker = Annotated[str, typer.Option(help="Name that the store knows the worker by; unique.")]
Truth = Annotated[
    list[Path], typer.Option("--truth", help="Photos with masks, any layout of `data check`. May repeat.")
]


def add_to(app: typer.Typer) -> None:
    """Make these the verbs of `anymask engine` too."""
    app.command("simulate", no_args_is_help=True)(simulate)
    app.command("detector", no_args_is_help=True)(detector)
    app.command("prefill", no_args_is_help=True)(prefill)


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


def detector(
    database: Database,
    output: Annotated[Path, typer.Option("--output", "-o", help="The detector, a safetensors file.")],
    project: Project = None,
    steps: Annotated[int, typer.Option(help="Training steps, of two photos each.")] = 300,
) -> None:
    """Train a detector of objects without classes from all stage-1 masks, on the embedding of the serving model.

    **Example**

    `anymask engine detector masks.db -o detector.safetensors`
    """
    from anymask.engine.detector import save_detector
    from anymask.engine.detector_training import DetectorRecipe, stage_one_boxes, train_detector
    from anymask.engine.models import first_version, load_version

    store, project_id = open_project(database, project)
    data = stage_one_boxes(store, project_id)
    model = first_version(store, project_id)
    trained, facts = train_detector(store, load_version(model), data, DetectorRecipe(steps), say)
    save_detector(trained, output, {**facts, "model_version": model.name})
    store.close()
    print(f"{output}: trained on {facts['num_boxes']:,} boxes of {facts['num_photos']:,} photos")


def prefill(
    database: Database,
    detector: Annotated[Path, typer.Option("--detector", help="File of `anymask engine detector`.")],
    project: Project = None,
    photos: Annotated[int | None, typer.Option(help="At most so many of the photos without masks.")] = None,
    min_score: Annotated[float, typer.Option(help="Least score of a box.")] = 0.3,
    min_iou: Annotated[float | None, typer.Option(help="Least predicted IoU. Default: 0.88, lite 0.7.")] = None,
    worker: Worker = "prefill",
) -> None:
    """Begin stage 2: the detector's boxes prompt the model on photos without masks; people accept and add the rest.

    Candidates are proposed masks of a model, apart from accepted ones; time on them is not counted. Run it again after
    a stop, and it goes on with the photos of the round that are left.

    **Example**

    `anymask engine prefill masks.db --detector detector.safetensors`
    """
    from anymask.engine.detector import load_detector
    from anymask.engine.models import file_hash, first_version, load_version
    from anymask.engine.prefill import Prefiller, PrefillRules
    from anymask.engine.stages import PREFILL, begin_stage, num_open, remaining_images
    from anymask.train.cache import encoder_key

    store, project_id = open_project(database, project)
    model = first_version(store, project_id)
    segmenter = load_version(model)
    found = load_detector(detector, encoder_key(segmenter.sam))
    changes = {"min_score": min_score} | ({} if min_iou is None else {"min_predicted_iou": min_iou})
    rules = PrefillRules.for_model(segmenter, **changes)
    filler = Prefiller(store, segmenter, found, rules, model.id, worker)
    now = store.current_round(project_id)
    if now.stage != 2 or not num_open(store, now.id, PREFILL):
        facts = {**filler.facts(), "detector": file_hash(detector)}
        images = remaining_images(store, project_id)[:photos]
        begin_stage(store, project_id, 2, images, PREFILL, model_version_id=model.id, facts=facts)
    done = filler.work(project_id, say)
    store.close()
    tell(done, "prefilled")


def tell(done: WorkedOff, verb: str) -> None:
    """One line of what was done; exit code 1 where photos were left out."""
    print(f"{done.num_photos:,} photos {verb}, {done.num_masks:,} masks")
    if done.skipped:
        print(f"anymask: {len(done.skipped)} photos were skipped; the reasons are above.", file=sys.stderr)
        raise typer.Exit(1)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
