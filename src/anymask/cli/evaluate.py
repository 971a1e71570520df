"""`anymask evaluate`: the paper's tables, on any data and with any method."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.data import app as data_app

if TYPE_CHECKING:
    from rich.progress import Progress

    from anymask.evaluate.contract import Task

app = typer.Typer(
    help="Zero-shot evaluations: points, edges, proposals, instances, text, fairness, probing.", no_args_is_help=True
)

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for results.jsonl, tables, plots, worst cases; goes on there."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the numbers, with every protocol choice, to this file.")
]
Workers = Annotated[int, typer.Option(help="Processes.", min=1)]
Model = Annotated[str, typer.Option(help="A name, a weights file, or module:name of something that makes a Segmenter.")]
Precision = Annotated[str, typer.Option(help="`auto`, `fp32` or `bf16`.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `mps`.")]
Set = Annotated[list[str], typer.Option("--set", help="A protocol field, such as max_distance=0.01. May repeat.")]
Strict = Annotated[bool, typer.Option(help="Exit with 1 if anything was missing or could not be scored.")]
MaxPhotos = Annotated[int | None, typer.Option(help="Only so many photos (of each set).", min=1)]


@app.command("edges", no_args_is_help=True)
def edges(
    truth: Annotated[Path, typer.Option(help="Tar or folder of label maps <photo>.<annotator>.png, or BSDS500.")],
    method: Annotated[str, typer.Option(help="`model`, `canny`, `sobel`, `felzenszwalb`, or `folder:MAPS`.")] = "model",
    data: Annotated[Path | None, typer.Option(help="The photos; a folder of maps needs none.")] = None,
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    max_photos: MaxPhotos = None,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """Edges against people's boundaries: ODS, OIS, AP, R50 of the BSDS500 benchmark.

    A map is a PNG of 8 or 16 bits, named like its photo (`x.png` or `bsds_x.png`), thinned or not.

    **Examples**

    `anymask evaluate edges --method folder:maps --truth bsds_labelmaps.tar --json edges.json`

    `anymask evaluate edges --method model --data bsds-000.tar --truth bsds_labelmaps.tar --out edges --workers 2`

    Masks become edges as in the paper; for `lite`, whose outlines are coarse, their slopes are summed and meet the
    photo's own. The paper's way for it, too: `--set masks.aggregate=max` and so on; all fields are in the result.
    """
    from anymask.evaluate.edge_methods import LITE_EDGES, MaskEdges
    from anymask.evaluate.edges import EdgeRun, Edges
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides

    protocol = with_overrides(EdgeRun(masks=LITE_EDGES if model == "lite" else MaskEdges()), override)
    run(
        Edges(truth, method, data, protocol, ModelChoice(model, device, precision), max_photos),
        out, json_file, workers, strict,
    )  # fmt: skip


@app.command("points", no_args_is_help=True)
def points(
    data: Annotated[
        list[Path], typer.Option(help="Photos with masks in any layout, or set:FOLDER such as cityscapes:/data/cs.")
    ],
    method: Annotated[
        str, typer.Option(help="`model`, `grabcut`, `felzenszwalb`, `slic`, `random_walker`, or `folder:RECORDS`.")
    ] = "model",
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    max_photos: MaxPhotos = None,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """Masks from 1, 2, 3, 5, 9 clicks and from boxes: mIoU per set and over sets, clicks to 85 and 90 %.

    **Examples**

    `anymask evaluate points --data shards/ --out points --workers 2`

    `anymask evaluate points --data shards/ --method grabcut --set first=random`
    """
    from anymask.evaluate.datasets import domains
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.points import PointProtocol, Points

    protocol = with_overrides(PointProtocol(), override)
    choice = ModelChoice(model, device, precision)
    run(Points(data, method, protocol, choice, max_photos, domains()), out, json_file, workers, strict)


@app.command("compare", no_args_is_help=True)
def compare(
    data: Annotated[list[Path], typer.Option(help="Photos with masks in any layout, or set:FOLDER. May repeat.")],
    method: Annotated[
        list[str], typer.Option(help="Methods as of `evaluate points`, the first against the others. May repeat.")
    ] = ["model", "grabcut", "felzenszwalb", "slic", "random_walker"],  # noqa: B006
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    workers: Workers = 1,
    max_photos: MaxPhotos = 4,
    override: Set = [],  # noqa: B006
) -> None:
    """Methods side by side on the same masks, at one click and at a box: mean, and the share of sets the first wins.

    By default 4 photos of each set and 2 masks of each, as the classical methods take about a second a mask.

    **Example**

    `anymask evaluate compare --data shards/ --method model --method grabcut --out compared`
    """
    from anymask.evaluate.compare import compare as run_methods
    from anymask.evaluate.datasets import domains
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.points import PointProtocol, Points
    from anymask.evaluate.report import text as as_text

    protocol = with_overrides(PointProtocol(clicks=(1,), reach=(), max_masks=2), override)
    task = Points(data, "model", protocol, ModelChoice(model, device, precision), max_photos, domains())
    with progress_bar() as bar:
        shown = bar.add_task("compare", total=None)
        tables, outcomes = run_methods(
            task, method, out, workers,
            lambda name, done, total: bar.update(shown, description=name, completed=done, total=total),
        )  # fmt: skip
    for table in tables:
        print(as_text(table) + "\n")
    for name, outcome in outcomes.items():
        for case, reason in outcome.failed.items():
            print(f"anymask: {name}: {case}: {reason}", file=sys.stderr)


@app.command("proposals", no_args_is_help=True)
def proposals(
    truth: Annotated[Path, typer.Option(help="COCO or LVIS JSON.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the photos, where it is not beside the JSON.")] = None,
    method: Annotated[str, typer.Option(help="`model`, or `results:FILE`: masks with scores of any tool.")] = "model",
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    max_photos: MaxPhotos = None,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """How many annotated objects are among the masks of everything: AR@10, 100, 1000 by size and frequency.

    **Example**

    `anymask evaluate proposals --truth lvis_v1_val.json --images coco/ --out proposals --workers 2`
    """
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.proposals import ProposalProtocol, Proposals

    protocol = with_overrides(ProposalProtocol(), override)
    task = Proposals(truth, images, method, protocol, ModelChoice(model, device, precision), max_photos)
    run(task, out, json_file, workers, strict)


@app.command("instances", no_args_is_help=True)
def instances(
    truth: Annotated[Path, typer.Option(help="COCO or LVIS JSON.")],
    boxes: Annotated[Path, typer.Option(help="A detector's results, COCO's JSON list.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the photos, where it is not beside the JSON.")] = None,
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    max_photos: MaxPhotos = None,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """Masks for a detector's boxes: mask, box and boundary AP by COCO's or LVIS's rules.

    **Example**

    `anymask evaluate instances --truth instances_val2017.json --boxes detections.json --images val2017 --out instances`
    """
    from anymask.evaluate.instances import InstanceProtocol, Instances
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides

    protocol = with_overrides(InstanceProtocol(), override)
    choice = ModelChoice(model, device, precision)
    run(Instances(truth, boxes, images, "model", protocol, choice, max_photos), out, json_file, workers, strict)


@app.command("text", no_args_is_help=True)
def text(
    data: Annotated[list[Path], typer.Option(help="Photos with masks that have a label, in any layout. May repeat.")],
    text_model: Annotated[str, typer.Option(help="`offline`, or a folder with a CLIP of open_clip.")] = "offline",
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    max_photos: MaxPhotos = None,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """Does the first mask for a word lie on an object of that name? Hit rate beside that of the largest mask.

    **Examples**

    `anymask evaluate text --data shards/ --out text`

    `anymask evaluate text --data shards/ --set candidates=truth --max-photos 20`
    """
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.text_to_mask import TextProtocol, TextToMask
    from anymask.text.choice import TextChoice

    protocol = with_overrides(TextProtocol(), override)
    task = TextToMask(data, TextChoice(text_model), protocol, ModelChoice(model, device, precision), max_photos)
    run(task, out, json_file, workers, strict)


@app.command("fairness", no_args_is_help=True)
def fairness(
    data: Annotated[list[Path], typer.Option(help="Photos with masks in any layout. May repeat.")],
    attributes: Annotated[Path, typer.Option(help="CSV: photo, mask (from 0), and a column for each attribute.")],
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """Mean IoU by group at 1 and 3 random points, with bootstrap intervals, beside the published tables.

    **Example**

    `anymask evaluate fairness --data people/ --attributes people.csv --out fairness`
    """
    from anymask.evaluate.fairness import Fairness, FairnessProtocol
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides

    protocol = with_overrides(FairnessProtocol(), override)
    run(Fairness(data, attributes, protocol, ModelChoice(model, device, precision)), out, json_file, workers, strict)


@app.command("geography", no_args_is_help=True)
def geography(
    data: Annotated[list[Path], typer.Option(help="Photos with masks in any layout. May repeat.")],
    places: Annotated[Path, typer.Option(help="CSV: photo, and any of country, region, income.")],
    out: Out = None,
    json_file: Json = None,
    override: Set = [],  # noqa: B006
    strict: Strict = False,
) -> None:
    """Photos and masks by region and by income of the country, beside the published table.

    **Example**

    `anymask evaluate geography --data photos/ --places places.csv --out geography`
    """
    from anymask.evaluate.geography import Geography, GeographyProtocol
    from anymask.evaluate.overrides import with_overrides

    run(Geography(data, places, with_overrides(GeographyProtocol(), override)), out, json_file, 1, strict)


@app.command("probe", no_args_is_help=True)
def probe(
    photo: Annotated[str, typer.Argument(help="A photo, or `sample:cat`.")],
    point: Annotated[str, typer.Option("--point", "-p", help="A pixel `x,y` of the mask that is asked for.")],
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    points_per_side: Annotated[int, typer.Option(help="Grid of the automatic masks.", min=1)] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures and list.")] = Path("probe"),
    override: Set = [],  # noqa: B006
) -> None:
    """Which masks of a photo does the model find alike? Their mean embeddings compared with one mask's.

    **Example**

    `anymask evaluate probe photo.jpg --point 320,240 --output probe`
    """
    from anymask.cli.predict import open_source, parse_point
    from anymask.core.files import write_aside
    from anymask.core.images import read_image, write_image
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.probe import ProbeProtocol, alike, probe_picture

    protocol = with_overrides(ProbeProtocol(), override)
    x, y, _ = parse_point(point)
    image = read_image(open_source(photo))
    segmenter = ModelChoice(model, device, precision).segmenter
    masks, query, likeness = alike(segmenter, image, (x, y), points_per_side, protocol)
    output.mkdir(parents=True, exist_ok=True)
    for name, threshold in (("low", protocol.low), ("high", protocol.high)):
        write_image(output / f"{name}.png", probe_picture(image, masks, likeness, query, threshold))
        print(f"{output / name}.png: {int((likeness >= threshold).sum()) - 1} masks at {threshold:g} or more")
    rows = [
        {"mask": i, "area": int(mask.sum()), "likeness": round(float(value), 4)}
        for i, (mask, value) in enumerate(zip(masks, likeness))
    ]
    with write_aside(output / "likeness.json") as part:
        part.write_text(json.dumps({"query": query, "masks": rows}, indent=1) + "\n")


@data_app.command("prepare", no_args_is_help=True)
def prepare(
    name: Annotated[str, typer.Argument(help="A set of the paper's 23, such as `cityscapes`; `all` lists them.")],
    root: Annotated[Path | None, typer.Option(help="Where its archives are unpacked.")] = None,
) -> None:
    """Check a downloaded data set of the point-to-mask evaluation, and say exactly what is missing.

    **Example**

    `anymask data prepare cityscapes --root /data/cityscapes`
    """
    from anymask.core.errors import OptionError
    from anymask.evaluate.datasets import SETS, prepare

    if name == "all":
        for entry in SETS:
            layout = "; ".join(entry.layout.files if entry.layout else ()) or "any layout of `anymask data check`"
            print(f"{entry.name:13}{entry.domain:29}{entry.num_images:6,} photos{entry.num_masks:7,} masks  {layout}")
        return
    if root is None:
        raise OptionError(f"--root says where {name} is unpacked.")
    found = prepare(name, root)
    print(f"{found.entry.title}, {found.entry.split}: {found.num_images:,} photos, {found.num_masks:,} masks")
    for line in found.missing:
        print(f"  missing: {line}")
    for line in found.problems[:20]:
        print(f"  problem: {line}")
    if len(found.problems) > 20:
        print(f"  … and {len(found.problems) - 20} more")
    if not found.ready:
        raise typer.Exit(1)
    print(f"ready: anymask evaluate points --data {name}:{root}")


def progress_bar() -> Progress:
    """On standard error: cases done, time spent and left."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def run(task: Task, out: Path | None, json_file: Path | None, workers: int, strict: bool) -> None:
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
