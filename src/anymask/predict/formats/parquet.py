"""Parquet: masks.parquet with a row for each mask, for pandas, DuckDB, Spark and Ray. Keeps everything.

A photo without masks has one row whose `counts` is null. `counts` is COCO's compressed RLE of a mask of
`height`×`width`; boxes are x, y, w, h, `bbox` in segment_anything's way (w and h without + 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError, MissingExtraError
from anymask.core.files import write_aside
from anymask.predict.formats.files import files_in, naming
from anymask.predict.records import MaskRecord, PhotoMasks

FILE = "masks.parquet"
ROWS_AT_ONCE = 10_000  # in memory, and in a row group: some 10 MB


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """masks.parquet for all photos; they are not all held at once."""
    pyarrow, parquet = require_pyarrow()
    schema = _schema(pyarrow)
    path = folder / FILE
    with write_aside(path) as part, parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for index, photo in enumerate(photos):
            rows += _rows(index, photo)
            if len(rows) >= ROWS_AT_ONCE:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return [path]


def read(path: Path) -> list[PhotoMasks]:
    """A Parquet file, or all of a folder."""
    _, parquet = require_pyarrow()
    photos = []
    for file in files_in(path, "*.parquet"):
        with naming(file):
            try:
                with parquet.ParquetFile(file) as table:
                    batches = table.iter_batches(ROWS_AT_ONCE)
                    rows = (row for batch in batches for row in batch.to_pylist())
                    photos += list(_photos(rows))
            except OSError as error:
                raise InputError(f"no readable Parquet file: {error}") from error
    return photos


def _rows(index: int, photo: PhotoMasks) -> Iterator[dict[str, Any]]:
    about = {
        "photo": index,
        "file_name": photo.file_name,
        "image_id": photo.image_id,
        "height": photo.hw[0],
        "width": photo.hw[1],
    }
    if not photo.masks:
        yield about
    for i, mask in enumerate(photo.masks):
        yield {
            **about,
            "id": i,
            "counts": mask.rle["counts"],
            "area": mask.num_px,
            "bbox": mask.box_xywh,
            "predicted_iou": mask.predicted_iou,
            "stability_score": mask.stability_score,
            "point_coords": mask.point_xy,
            "crop_box": mask.crop_xywh,
            "label": mask.label,
        }


def _photos(rows: Iterable[dict[str, Any]]) -> Iterator[PhotoMasks]:
    for _, of_photo in groupby(rows, key=lambda row: row["photo"]):
        masks = []
        for row in of_photo:
            if row["counts"] is None:
                continue
            rle = {"size": [row["height"], row["width"]], "counts": row["counts"]}
            points = None if row["point_coords"] is None else [row["point_coords"]]
            masks.append(MaskRecord.of({**row, "segmentation": rle, "point_coords": points}))
        yield PhotoMasks(row["file_name"], (row["height"], row["width"]), tuple(masks), row["image_id"])


def _schema(pyarrow: Any) -> Any:
    """Columns and their types."""
    number = pyarrow.float64()
    return pyarrow.schema(
        [
            ("photo", pyarrow.int64()),
            ("file_name", pyarrow.string()),
            ("image_id", pyarrow.int64()),
            ("height", pyarrow.int32()),
            ("width", pyarrow.int32()),
            ("id", pyarrow.int32()),
            ("counts", pyarrow.string()),
            ("area", pyarrow.int64()),
            ("bbox", pyarrow.list_(pyarrow.int32())),
            ("predicted_iou", number),
            ("stability_score", number),
            ("point_coords", pyarrow.list_(number)),
            ("crop_box", pyarrow.list_(number)),
            ("label", pyarrow.string()),
        ]
    )


def require_pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, or MissingExtraError."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("Parquet files need pyarrow: pip install 'anymask[parquet]'") from error
    return pyarrow, parquet
