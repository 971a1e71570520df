"""`anymask evaluate` with somebody's own list beside the photos: detections, people's attributes, places."""

from __future__ import annotations

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
    run,
    workforce,
)


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
    engine: Engine = "local",
    ray_address: RayAddress = None,
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
    run(task, out, json_file, workforce(workers, engine, ray_address, device), strict)


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
    engine: Engine = "local",
    ray_address: RayAddress = None,
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
    task = Instances(truth, boxes, images, "model", protocol, choice, max_photos)
    run(task, out, json_file, workforce(workers, engine, ray_address, device), strict)


def fairness(
    data: Annotated[list[Path], typer.Option(help="Photos with masks in any layout. May repeat.")],
    attributes: Annotated[Path, typer.Option(help="CSV: photo, mask (from 0), and a column for each attribute.")],
    model: Model = "lite",
    precision: Precision = "auto",
    device: Device = "cpu",
    out: Out = None,
    json_file: Json = None,
    workers: Workers = 1,
    engine: Engine = "local",
    ray_address: RayAddress = None,
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
    task = Fairness(data, attributes, protocol, ModelChoice(model, device, precision))
    run(task, out, json_file, workforce(workers, engine, ray_address, device), strict)


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


def add_to(app: typer.Typer) -> None:
    """Put these commands into the family."""
    for command in (proposals, instances, fairness, geography):
        app.command(command.__name__, no_args_is_help=True)(command)
