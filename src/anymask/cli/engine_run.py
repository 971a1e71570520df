"""`anymask engine retrain` and `anymask engine run`: new model versions, one at a time or at the end of each stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.engine_loop import parse_options, say
from anymask.cli.engine_shared import Database, Project, open_project
from anymask.core.errors import OptionError

if TYPE_CHECKING:
    from anymask.engine.models import ModelVersion
    from anymask.engine.retrain import Retraining
    from anymask.train.config import TrainConfig

HeldOut = Annotated[
    list[Path], typer.Option("--held-out", help="Photos with masks to judge models by; never trained on. May repeat.")
]
Work = Annotated[Path | None, typer.Option(help="Folder of data sets, runs and scores. Default: beside the database.")]
Config = Annotated[
    str | None,
    typer.Option(help="Recipe by name, or a YAML file. Default: `engine` for lite, `finetune_decoder` for a ViT."),
]
Override = Annotated[list[str], typer.Option("--set", help="Override of the recipe, such as `lr=1e-4`. May repeat.")]

Blend = Annotated[
    str, typer.Option(help="Shares of the trained weights beside the serving model's; the best of these is taken.")
]


def add_to(app: typer.Typer) -> None:
    """Make these the verbs of `anymask engine` too."""
    app.command("models", no_args_is_help=True)(models)
    app.command("retrain", no_args_is_help=True)(retrain)
    app.command("run", no_args_is_help=True)(run)


def models(
    database: Database,
    project: Project = None,
    serve: Annotated[
        str | None, typer.Option(help="Let this serve from now on: a version, a model's name, or a weights file.")
    ] = None,
) -> None:
    """List the model versions of a project, or choose the one that serves; running servers switch to it.

    **Examples**

    `anymask engine models masks.db`

    `anymask engine models masks.db --serve v1`
    """
    from anymask.engine.models import serve as let_serve
    from anymask.engine.models import serving_version, versions

    store, project_id = open_project(database, project)
    if serve is not None:
        let_serve(store, project_id, serve)
    serving = serving_version(store, project_id)
    for each in versions(store, project_id):
        score = each.facts.get("held_out", {}).get("after")
        quality = "" if score is None else f"  one click {score['selected']:.1f} mIoU"
        mark = "  serves" if serving is not None and each.id == serving.id else ""
        print(f"{each.name:6} {each.place}{quality}{mark}")
    store.close()


def retrain(
    database: Database,
    held_out: HeldOut,
    project: Project = None,
    work: Work = None,
    config: Config = None,
    override: Override = [],  # noqa: B006
    margin: Annotated[float, typer.Option(help="Points that a promoted model may be worse by.")] = 0.0,
    blend: Blend = "1,0.5",
) -> None:
    """Publish the masks as a data set, train from the model that serves, promote the result if it is not worse.

    The data set is a numbered folder of SA-1B shards with a manifest of hashes, and never changes. A running server
    switches to a promoted model by itself. Run it again after a stop, and it goes on.

    **Example**

    `anymask engine retrain masks.db --held-out dev/ --set phases.0.until_step=200`
    """
    from anymask.engine.models import first_version
    from anymask.engine.retrain import retrain as retrain_model

    store, project_id = open_project(database, project)
    first = first_version(store, project_id)
    chosen = settings(database, work, held_out, recipe_of(first, config), override, margin, blend)
    made = retrain_model(store, project_id, chosen, say)
    store.close()
    print(f"{made.model.name}: {made.data.num_masks:,} masks, data set {made.data.folder}")
    before, after = made.before, made.after
    print(f"one click {before.selected:.1f} → {after.selected:.1f} mIoU on {after.num_masks:,} masks")
    print(f"mean after 1, 2, 4, … clicks {before.curve:.1f} → {after.curve:.1f}")
    print("promoted" if made.is_promoted else "not promoted: it is worse than the model that serves")


def run(
    database: Database,
    truth: Annotated[list[Path], typer.Option("--truth", help="Photos with masks that the annotator knows.")],
    held_out: HeldOut,
    simulate: Annotated[bool, typer.Option("--simulate", help="Play the annotator; people work with `serve`.")] = False,
    stages: Annotated[str, typer.Option(help="In this order, each with a retraining after it.")] = "1,2,3",
    photos: Annotated[str, typer.Option(help="How many photos for each stage.")] = "40,40,80",
    unlabelled: Annotated[list[Path], typer.Option(help="More photos, for stage 3. May repeat.")] = [],  # noqa: B006
    project: Project = None,
    work: Work = None,
    config: Config = None,
    last_config: Annotated[str | None, typer.Option(help="Recipe after the last stage, where it is another.")] = None,
    override: Override = [],  # noqa: B006
    max_masks: Annotated[int, typer.Option(help="Objects that the annotator marks on a photo, at most.")] = 24,
    move_on: Annotated[float, typer.Option(help="Seconds of a mask after which to go to the next photo.")] = 60.0,
    detector_steps: Annotated[int, typer.Option(help="Training steps of the detector.")] = 300,
    generator: Annotated[list[str], typer.Option(help="Generator option, `name=value`. May repeat.")] = [],  # noqa: B006
    margin: Annotated[float, typer.Option(help="Points that a promoted model may be worse by.")] = 0.0,
    blend: Blend = "1,0.5",
    dev_photos: Annotated[int, typer.Option(help="Held-out photos of each set.")] = 10,
    dev_masks: Annotated[int, typer.Option(help="Held-out masks of each photo.")] = 4,
    dev_clicks: Annotated[int, typer.Option(help="Clicks on each held-out mask, at most.")] = 8,
) -> None:
    """Run the whole data engine unattended: annotate, retrain, detect, prefill, annotate, retrain, generate, retrain.

    Photos of --truth and --unlabelled are added to the store. Prints and draws (gain.png, gain.json in --work) how good
    each model is on the held-out photos. Run it again after a stop, and it goes on.

    **Example**

    `anymask engine run loop.db --stages 1,2,3 --simulate --truth train/ --unlabelled more/ --held-out dev/`
    """
    import json
    from dataclasses import replace

    from anymask.core.files import write_aside
    from anymask.data.readers import open_dataset
    from anymask.engine.detector_training import DetectorRecipe
    from anymask.engine.gain import draw_gain, gain_curve, gain_table
    from anymask.engine.held_out import HeldOutProtocol
    from anymask.engine.loop import LoopPlan, run_loop
    from anymask.engine.models import first_version
    from anymask.engine.report import make_report
    from anymask.engine.simulated_clicks import Hand
    from anymask.engine.truth import add_truth_photos, read_truth

    if not simulate:
        raise OptionError(
            "run plays the annotator: add --simulate. With people, go step by step: anymask engine add, serve, "
            "retrain, detector, prefill, automatic."
        )
    protocol = HeldOutProtocol(dev_photos, dev_masks, dev_clicks)
    known = read_truth(truth, max_masks)
    store, project_id = open_project(database, project)
    recipe = recipe_of(first_version(store, project_id), config)
    chosen = settings(database, work, held_out, recipe, override, margin, blend, protocol)
    last = None
    if last_config is not None:
        trained, name = read_recipe((last_config, []), override)
        last = replace(chosen, config=trained, recipe=name)
    plan = LoopPlan(
        whole_numbers(stages),
        whole_numbers(photos),
        known,
        chosen,
        Hand(move_on_s=move_on),
        DetectorRecipe(detector_steps),
        generator=parse_options(generator),
        last=last,
    )
    more = (photo for place in unlabelled for photo in open_dataset(place))
    for group in (known.photos.values(), more):
        add_truth_photos(store, project_id, group, chosen.work / "photos")
    made = run_loop(store, project_id, plan, say)
    points = gain_curve(made)
    print(gain_table(points, make_report(store, project_id)))
    store.close()
    with write_aside(chosen.work / "gain.json") as part:
        part.write_text(json.dumps([point.__dict__ for point in points], indent=1))
    draw_gain(points, chosen.work / "gain.png", protocol.clicks, protocol.target_iou)
    print(f"{chosen.work / 'gain.png'}")


def settings(
    database: str,
    work: Path | None,
    held_out: list[Path],
    recipe: tuple[str, list[str]],
    override: list[str],
    margin: float,
    blend: str,
    protocol: object = None,
) -> Retraining:
    """The options of a retraining, checked."""
    from anymask.engine.held_out import HeldOut as Photos
    from anymask.engine.retrain import Retraining

    if work is None and "://" in database:
        raise OptionError("name a folder for data sets and runs: --work FOLDER.")
    config, name = read_recipe(recipe, override)
    folder = work or Path(database).with_suffix("").with_name(f"{Path(database).stem}-engine")
    judged = Photos.read(held_out, protocol)  # type: ignore[arg-type]
    return Retraining(folder.resolve(), config, judged, name, margin=margin, blends=shares(blend))


def read_recipe(recipe: tuple[str, list[str]], override: list[str]) -> tuple[TrainConfig, str]:
    """A recipe by name or file with its own overrides and the user's, and what it is called."""
    from anymask.cli.train import find_recipe
    from anymask.train.config import load_config

    path = find_recipe(recipe[0])
    return load_config(path, [*recipe[1], *override]), path.stem


def recipe_of(model: ModelVersion, config: str | None) -> tuple[str, list[str]]:
    """The named recipe, or the one that suits the model, with its overrides."""
    from anymask.engine.retrain import recipe_for

    return (config, []) if config is not None else recipe_for(model)


def whole_numbers(text: str) -> list[int]:
    """`40,40,80` to numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"expected whole numbers with commas between, such as 1,2,3; got {text!r}.") from None


def shares(text: str) -> tuple[float, ...]:
    """`1,0.5` to shares."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"expected shares with commas between, such as 1,0.5; got {text!r}.") from None
    if not all(0 < share <= 1 for share in found):
        raise OptionError(f"shares of --blend lie above 0 and up to 1, got {text!r}.")
    return found
