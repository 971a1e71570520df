"""`anymask evaluate`: the paper's tables, on any data and with any method."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_shared import (
    Device,
    Engine,
    Json,
    MaxPhotos,
    Model,
    Out,
    Precision,
    RayAddress,
    Set,
    Strict,
    Workers,
    progress_bar,
    run,
    workforce,
)
from anymask.text.choice import TEXT_MODEL

app = typer.Typer(
    help="Zero-shot evaluations: points, edges, proposals, instances, text, fairness, probing.", no_args_is_help=True
)


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
    engine: Engine = "local",
    ray_address: RayAddress = None,
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
    task = Points(data, method, protocol, choice, max_photos, domains())
    run(task, out, json_file, workforce(workers, engine, ray_address, device), strict)


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
    engine: Engine = "local",
    ray_address: RayAddress = None,
    max_photos: MaxPhotos = 4,
    override: Set = [],  # noqa: B006
) -> None:
    """Methods side by side on the same masks, at one click and at a box: mean, and the share of sets the first wins.

    By default 4 photos of each set and 2 masks of each, as the classical methods take about a second a mask. With more
    clicks also mIoU over clicks, and the number of clicks to 85 and 90 %.

    **Examples**

    `anymask evaluate compare --data shards/ --method model --method grabcut --out compared`

    `anymask evaluate compare --data shards/ --method model --method grabcut --set clicks=[1,2,3,5,9] --out clicked`
    """
    from anymask.evaluate.compare import compare as run_methods
    from anymask.evaluate.datasets import domains
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.points import PointProtocol, Points
    from anymask.evaluate.report import text as as_text

    protocol = with_overrides(PointProtocol(clicks=(1,), max_masks=2), override)
    task = Points(data, "model", protocol, ModelChoice(model, device, precision), max_photos, domains())
    with progress_bar() as bar:
        shown = bar.add_task("compare", total=None)
        tables, outcomes = run_methods(
            task, method, out, workforce(workers, engine, ray_address, device),
            lambda name, done, total: bar.update(shown, description=name, completed=done, total=total),
        )  # fmt: skip
    for table in tables:
        print(as_text(table) + "\n")
    for name, outcome in outcomes.items():
        for case, reason in outcome.failed.items():
            print(f"anymask: {name}: {case}: {reason}", file=sys.stderr)


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
    engine: Engine = "local",
    ray_address: RayAddress = None,
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
    task = Edges(truth, method, data, protocol, ModelChoice(model, device, precision), max_photos)
    run(task, out, json_file, workforce(workers, engine, ray_address, device), strict)


@app.command("text", no_args_is_help=True)
def text(
    data: Annotated[list[Path], typer.Option(help="Photos with masks that have a label, in any layout. May repeat.")],
    text_model: Annotated[str, typer.Option(help=TEXT_MODEL)] = "offline",
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    engine: Engine = "local",
    ray_address: RayAddress = None,
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
    run(task, out, json_file, workforce(workers, engine, ray_address, device), strict)


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
