"""`anymask engine`, the loop: annotate by simulation, detector, prefill, automatic masks, retrain, run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymask.cli.engine_shared import Database, Project, open_project
from anymask.core.errors import OptionError, unknown_name

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
    app.command("automatic", no_args_is_help=True)(automatic)


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
    from anymask.engine.costs import spending
    from anymask.engine.detector import save_detector
    from anymask.engine.detector_training import DetectorRecipe, stage_one_boxes, train_detector
    from anymask.engine.models import first_version, load_version

    store, project_id = open_project(database, project)
    data = stage_one_boxes(store, project_id)
    model = first_version(store, project_id)
    with spending(store, project_id, "detector", len(data.image_ids)):
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


def automatic(
    database: Database,
    project: Project = None,
    photos: Annotated[int | None, typer.Option(help="At most so many of the photos without masks.")] = None,
    override: Annotated[
        list[str], typer.Option("--set", help="Generator option, such as `pred_iou_thresh=0.9`. May repeat.")
    ] = [],  # noqa: B006
    engine: Annotated[str, typer.Option(help="`local` or `ray`.")] = "local",
    workers: Annotated[int, typer.Option(help="Of Ray.")] = 2,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster to join.")] = None,
) -> None:
    """Begin stage 3: the generator with the paper's filters on all photos without masks; thresholds are recorded.

    The paper's settings; for lite thresholds on its own scale, without crops. Run it again, and it goes on.

    **Examples**

    `anymask engine automatic masks.db --set pred_iou_thresh=0.8`

    `anymask engine automatic postgresql://anna@server/masks --engine ray --workers 8`
    """
    from anymask.engine.automatic import automatic_here, automatic_on_ray, begin_automatic, generator_options
    from anymask.engine.models import first_version, load_version
    from anymask.engine.stages import remaining_images

    if engine not in ("local", "ray"):
        raise unknown_name("engine", engine, ["local", "ray"])
    store, project_id = open_project(database, project)
    model = first_version(store, project_id)
    options = generator_options(load_version(model), **parse_options(override))
    begin_automatic(store, project_id, remaining_images(store, project_id)[:photos], options, model.id)
    if engine == "ray":
        done = automatic_on_ray(database, project_id, workers, address)
    else:
        done = automatic_here(store, project_id, "generator", say)
    store.close()
    tell(done, "done")


def parse_options(texts: list[str]) -> dict[str, Any]:
    """`name=value` texts to numbers and words."""
    from omegaconf import OmegaConf

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, _ = text.partition("=")
        if not equals:
            raise OptionError(f"--set {text}: expected name=value, such as pred_iou_thresh=0.9.")
        found[name] = OmegaConf.from_dotlist([text])[name]
    return found


def tell(done: WorkedOff, verb: str) -> None:
    """One line of what was done; exit code 1 where photos were left out."""
    print(f"{done.num_photos:,} photos {verb}, {done.num_masks:,} masks")
    if done.skipped:
        for place, why in done.skipped:
            print(f"anymask: {why if place in why else f'{place}: {why}'}", file=sys.stderr)
        raise typer.Exit(1)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
