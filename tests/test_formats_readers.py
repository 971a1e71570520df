"""Proves: supervision and pycocotools read the generator's own output; shards and tables from elsewhere are judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from automatic_pair import BlobSegmenter, blobby_photo
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from shard_tools import shard

from anymask.core.errors import InputError
from anymask.core.rle import decode_one
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.formats import read_masks, write_masks
from anymask.predict.formats.label_studio import name_of
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


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><id>3</id></job></meta>
<image id="0" subset="default" task_id="3" name="street/a.jpg" width="8" height="6">
  <mask label="car" source="manual" occluded="0" rle="1, 2, 2, 1" left="2" top="1" width="3" height="2" z_order="0"/>
  <polygon label="tree" source="manual" occluded="0" points="0.00,0.00;2.00,0.00;2.00,2.00;0.00,2.00" group_id="7"/>
  <polygon label="tree" source="manual" occluded="0" points="4,4;6,4;6,6;4,6" group_id="7"><attribute name="age">3</attribute></polygon>
  <tag label="day" source="manual"/>
</image></annotations>"""  # noqa: E501


def test_cvats_own_export_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(CVAT)
    (photo,) = read_masks(tmp_path / "a.xml")
    car, tree = (decode_one(mask.rle) for mask in photo.masks)
    assert (photo.file_name, photo.hw, [m.label for m in photo.masks]) == ("street/a.jpg", (6, 8), ["car", "tree"])
    assert np.argwhere(car).tolist() == [[1, 3], [1, 4], [2, 4]]
    assert tree.sum() == 8 and tree[:2, :2].all() and tree[4:, 4:6].all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rle="1, 2, 2, 1"', 'rle="1, 2, 2"', "sum to 6"),
        ('left="2"', 'left="6"', "leaves the photo"),
        ("<tag", '<box label="x" xtl="1"/><tag', "has a box"),
        ("<annotations>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>", "declare no types"),
        ("</annotations>", "", "cannot be read as XML"),
        ('width="8"', 'width="800000000"', "is not one that can be read"),
    ],
)
def test_a_broken_cvat_file_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    content = CVAT.replace('<?xml version="1.0" encoding="utf-8"?>\n', "")
    (tmp_path / "a.xml").write_text(content.replace(old, new))
    with pytest.raises(InputError, match=rf"a\.xml.*{message}"):
        read_masks(tmp_path / "a.xml", "cvat")


PACKED = [0, 0, 0, 16, 57, 27, 252, 96, 19, 255, 198, 0]  # label-studio-sdk 2.1.2: 2×2, the second and third pixel


def label_studio_export() -> list[dict]:
    size = {"original_width": 2, "original_height": 2, "image_rotation": 0, "from_name": "tag", "to_name": "image"}
    brush = {"id": "a", "type": "brushlabels", **size}
    brush["value"] = {"format": "rle", "rle": PACKED, "brushlabels": ["car"]}
    polygon = {"id": "b", "type": "polygonlabels", **size}
    polygon["value"] = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["tree"]}
    unknown = {"id": "c", "type": "choices", "value": {"choices": ["day"]}}
    cancelled = {"was_cancelled": True, "result": []}
    done = {"completed_by": 1, "result": [brush, polygon, unknown]}
    image = {"image": "/data/upload/3/0a1b2c3d-street%20a.jpg"}
    return [
        {"id": 9, "data": image, "annotations": [cancelled, done], "predictions": []},
        {"id": 10, "data": {"image": "s3://b/b.jpg"}, "annotations": []},
    ]


def test_label_studios_own_export_is_read(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps(label_studio_export()))
    (photo,) = read_masks(tmp_path / "export.json")
    assert (photo.file_name, photo.hw, photo.image_id) == ("street a.jpg", (2, 2), 9)
    assert [mask.label for mask in photo.masks] == ["car", "tree"]
    assert decode_one(photo.masks[0].rle).tolist() == [[False, True], [True, False]]
    assert decode_one(photo.masks[1].rle).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (PACKED[:9], "ends in the middle"),
        ([0, 0, 0, 12, *PACKED[4:]], "needs 16"),
        ([300], "whole numbers"),
        ([], "list"),
    ],
)
def test_a_damaged_brush_is_named(rle: list[int], message: str, tmp_path: Path) -> None:
    tasks = label_studio_export()
    tasks[0]["annotations"][1]["result"][0]["value"]["rle"] = rle
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    with pytest.raises(InputError, match=rf"a\.json.*{message}"):
        read_masks(tmp_path / "a.json", "label_studio")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("a.jpg", "a.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("/data/local-files/?d=photos/a%20b.jpg", "a b.jpg"),
        ("s3://bucket/x/a.jpg", "a.jpg"),
        ("https://x.org/p/a.jpg?w=3", "a.jpg"),
    ],
)
def test_names_in_label_studios_addresses(address: str, name: str) -> None:
    assert name_of(address) == name
