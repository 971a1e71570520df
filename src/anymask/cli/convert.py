"""`anymask convert`: masks from one file format to another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anymask.core.errors import InputError


def convert(
    source: Annotated[Path, typer.Argument(help="A file or folder of masks.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            "-t",
            help="sa1b, coco, coco_polygons, yolo, labelme, cvat, label_studio, png, parquet or labelmap.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the result; it may exist.")],
    source_format: Annotated[
        str | None, typer.Option("--from", "-f", help="The source's format, where it is not recognised.")
    ] = None,
) -> None:
    """Convert masks between formats.

    Reads these and SA-1B's tar shards. SA-1B, COCO, CVAT, Label Studio and Parquet keep everything. PNG drops labels;
    polygons (coco_polygons, yolo, labelme) fill holes; a label map shows smaller masks over larger ones.

    **Examples**

    `anymask convert out/ --to coco -o coco/`

    `anymask convert instances_val2017.json --to yolo -o yolo/`

    `anymask convert sa_000000.tar --to parquet -o tables/`
    """
    from anymask.predict.formats import FORMATS, find_format, known_format, read_masks, write_masks

    module = find_format(to)  # a mistyped name is told before anything is read
    if FORMATS[known_format(to)].with_photos:
        module.write([], output)  # says that masks alone do not make it
    if source.is_dir() and source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f"{output} lies inside {source}; choose another folder for the result.")
    photos = read_masks(source, source_format)
    written = write_masks(photos, output, to)
    masks = sum(len(photo.masks) for photo in photos)
    print(f"{len(photos)} photos, {masks} masks: {len(written)} files in {output}")
    alike = len(photos) - len({photo.stem.lower() for photo in photos})
    if alike and FORMATS[known_format(to)].per_photo:
        print(f"anymask: {alike} photos share a name with another; their files are numbered.", file=sys.stderr)
