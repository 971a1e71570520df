"""Proves: supervision and pycocotools read the generator's own output; shards and tables from elsewhere are judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from automatic_pair import BlobSegmenter, blobby_photo
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from shard_tools import shard

from anymask.core.errors import InputError
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.formats import read_masks, write_masks
from anymask.predict.records import PhotoMasks

OPTIONS = {"points_per_side": 4, "stability_score_thresh": 0.6}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return blobby_photo(1, (60, 80))


@pytest.fixture(scope="module")
def records(image: np.ndarray) -> list[dict]:
    found = SamAutomaticMaskGenerator(BlobSegmenter(), **OPTIONS).generate(image)
    assert len(found) > 3
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_supervision_reads_records(records: list[dict]) -> None:
    import supervision

    detections = supervision.Detections.from_sam(records)
    assert len(detections) == len(records)
    by_area = sorted(records, key=lambda r: -r["area"])
    assert sorted(detections.mask.sum((1, 2)).tolist(), reverse=True) == [r["area"] for r in by_area]
    x0, y0, x1, y1 = detections.xyxy[0]
    x, y, w, h = by_area[0]["bbox"]
    assert (x0, y0, x1, y1) == (x, y, x + w, y + h)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("format_name", ["sa1b", "coco", "parquet"])
def test_supervision_reads_files_read_back(records: list[dict], format_name: str, tmp_path: Path) -> None:
    import supervision

    write_masks([PhotoMasks.of("a.jpg", (60, 80), records, 1)], tmp_path, format_name)
    (photo,) = read_masks(tmp_path)
    again = [mask.to_official("binary_mask") for mask in photo.masks]
    first, second = (supervision.Detections.from_sam(r) for r in (records, again))
    assert np.array_equal(first.mask, second.mask) and np.array_equal(first.xyxy, second.xyxy)


def test_pycocotools_reads_records(image: np.ndarray) -> None:
    generator = SamAutomaticMaskGenerator(BlobSegmenter(), output_mode="coco_rle", **OPTIONS)
    for record in generator.generate(image):
        assert coco_mask.area(record["segmentation"]) == record["area"]
        x, y, w, h = coco_mask.toBbox(record["segmentation"]).tolist()
        assert record["bbox"] == [x, y, w - 1, h - 1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("format_name", ["coco", "coco_polygons"])
def test_pycocotools_reads_files(records: list[dict], format_name: str, tmp_path: Path) -> None:
    (path,) = write_masks([PhotoMasks.of("a.jpg", (60, 80), records, 1)], tmp_path, format_name)
    coco = COCO(str(path))
    for annotation, record in zip(coco.loadAnns(coco.getAnnIds()), records):
        mask = coco.annToMask(annotation).astype(bool)
        assert (mask | record["segmentation"] == mask).all()  # polygons fill holes
        assert format_name == "coco_polygons" or np.array_equal(mask, record["segmentation"])


def test_parquet_is_a_plain_table(records: list[dict], tmp_path: Path) -> None:
    from pyarrow import parquet

    photos = [PhotoMasks.of("a.jpg", (60, 80), records, 1), PhotoMasks("b.jpg", (5, 6), (), 2)]
    (path,) = write_masks(photos, tmp_path, "parquet")
    table = parquet.read_table(path)
    assert table.num_rows == len(records) + 1
    assert table["area"].to_pylist() == [r["area"] for r in records] + [None]
    assert table["file_name"].to_pylist()[-1] == "b.jpg"


def test_broken_tables_and_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    shard(tmp_path / "a.tar", {"sa_1.json": b"{}"})
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    for name, message in (("a.parquet", "a.parquet"), ("a.tar", "sa_1.json is not"), ("b.tar", "no readable tar")):
        with pytest.raises(InputError, match=message):
            read_masks(tmp_path / name)
