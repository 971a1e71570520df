"""`anymask convert`: masks from one file format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.core.errors import InputError


def convert(
    source: Annotated[Path, typer.Argument(help="A file or folder of masks.")],
    to: Annotated[
        str, typer.Option("--to", "-t", help="sa1b, coco, coco_polygons, yolo, labelme, png or labelmap.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the result; it may exist.")],
    source_format: Annotated[
        str | None, typer.Option("--from", "-f", help="The source's format, where it is not recognised.")
    ] = None,
) -> None:
    """Convert masks between formats.

    SA-1B and COCO keep everything. PNG drops labels; polygons (coco_polygons, yolo, labelme) fill holes; a label map
    shows smaller masks over larger ones.

    **Examples**

    `anymask convert out/ --to coco -o coco/`

    `anymask convert instances_val2017.json --to yolo -o yolo/`
    """
    from anymask.predict.formats import find_format, read_masks, write_masks

    find_format(to)  # a mistyped name is told before anything is read
    if source.is_dir() and source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f"{output} lies inside {source}; choose another folder for the result.")
    photos = read_masks(source, source_format)
    written = write_masks(photos, output, to)
    masks = sum(len(photo.masks) for photo in photos)
    print(f"{len(photos)} photos, {masks} masks: {len(written)} files in {output}")
