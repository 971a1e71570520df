"""Proves: every format gives back what was written, but for what its own docstring says it cannot hold."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from anymask.core.errors import InputError, OptionError
from anymask.core.rle import decode_one, encode_one
from anymask.predict.formats import WRITABLE, read_masks, recognise, write_masks
from anymask.predict.formats.outlines import joined, of_outlines, to_outlines
from anymask.predict.formats.png import HEADER
from anymask.predict.hierarchy import label_map
from anymask.predict.records import MaskRecord, PhotoMasks

EXACT = ("sa1b", "coco", "parquet", "cvat", "label_studio")
NO_HOLES = ("coco_polygons", "yolo", "labelme")
scores = st.none() | st.floats(0, 1)
numbers = st.floats(0, 1e4)


@st.composite
def masks(draw: st.DrawFn, hw: tuple[int, int]) -> np.ndarray:
    """Noise, or a few rectangles: islands, holes, pinches, borders, nothing, everything."""
    mask = np.zeros(hw, dtype=bool)
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        return rng.random(hw) < draw(st.floats(0, 1))
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, hw[0] - 1)), draw(st.integers(0, hw[1] - 1))
        mask[y : y + draw(st.integers(1, hw[0])), x : x + draw(st.integers(1, hw[1]))] ^= True
    return mask


@st.composite
def photos(draw: st.DrawFn) -> list[PhotoMasks]:
    found = []
    for i in range(draw(st.integers(0, 3))):
        hw = (draw(st.integers(1, 24)), draw(st.integers(1, 24)))
        records = tuple(
            MaskRecord(
                encode_one(draw(masks(hw))),
                draw(scores),
                draw(scores),
                draw(st.none() | st.tuples(numbers, numbers)),
                draw(st.none() | st.tuples(numbers, numbers, numbers, numbers)),
                draw(st.sampled_from([None, "cat", "Straßenbahn, gelb"])),
            )
            for _ in range(draw(st.integers(0, 3)))
        )
        found.append(PhotoMasks(f"photo {i}.jpg", hw, records, i + 1))
    return found


def round_trip(found: list[PhotoMasks], name: str) -> list[PhotoMasks]:
    with tempfile.TemporaryDirectory() as folder:
        write_masks(found, folder, name)
        return read_masks(folder, name)


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask without holes, a hole being background that no 4-connected way leads out of."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1]


@pytest.mark.parametrize("name", EXACT)
@settings(deadline=None, max_examples=40)
@given(photos())
def test_exact_formats(name: str, found: list[PhotoMasks]) -> None:
    if name == "cvat":  # has no word for an empty mask
        found = [replace(p, masks=tuple(m for m in p.masks if m.num_px)) for p in found]
    assert round_trip(found, name) == found


@settings(deadline=None, max_examples=40)
@given(photos())
def test_png_keeps_all_but_labels(found: list[PhotoMasks]) -> None:
    back = round_trip(found, "png")
    assert [(p.file_name, p.hw, p.image_id) for p in back] == [(p.file_name, p.hw, p.image_id) for p in found]
    for a, b in zip(back, found):
        assert list(a.masks) == [replace(m, label=None) for m in b.masks]


@pytest.mark.parametrize("name", NO_HOLES)
@settings(deadline=None, max_examples=40)
@given(photos())
def test_polygon_formats_fill_holes_and_keep_the_rest(name: str, found: list[PhotoMasks]) -> None:
    back = round_trip(found, name)
    assert [(p.file_name, p.hw) for p in back] == [(p.file_name, p.hw) for p in found]
    for a, b in zip(back, found):
        kept = [m for m in b.masks if m.num_px or name == "coco_polygons"]
        assert [m.label for m in a.masks] == [m.label for m in kept]
        for x, y in zip(a.masks, kept):
            assert np.array_equal(decode_one(x.rle), filled(decode_one(y.rle)))


@settings(deadline=None, max_examples=40)
@given(photos())
def test_labelmap_keeps_what_is_on_top(found: list[PhotoMasks]) -> None:
    back = round_trip(found, "labelmap")
    for a, b in zip(back, found):
        assert a.hw == b.hw
        labels = label_map([m.to_official() for m in b.masks], b.hw)
        assert [m.rle for m in a.masks] == [encode_one(labels == v) for v in np.unique(labels) if v]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_outlines_enclose_exactly_the_mask(height: int, width: int, data: st.DataObject) -> None:
    mask = data.draw(masks((height, width)))
    outlines = to_outlines(encode_one(mask))
    assert np.array_equal(decode_one(of_outlines(outlines, mask.shape)), filled(mask))
    if outlines:
        assert np.array_equal(decode_one(of_outlines([joined(outlines)], mask.shape)), filled(mask))


@pytest.mark.parametrize("name", WRITABLE)
def test_zero_masks_and_zero_photos(name: str, tmp_path: Path) -> None:
    nothing = [PhotoMasks("a.jpg", (4, 6), (), 1)]
    write_masks(nothing, tmp_path / "one", name)
    (back,) = read_masks(tmp_path / "one", name)
    assert (back.stem, back.hw, back.masks) == ("a", (4, 6), ())
    write_masks([], tmp_path / "none", name)
    assert read_masks(tmp_path / "none", name) == []


@pytest.mark.parametrize("name", WRITABLE)
def test_formats_are_recognised(name: str, tmp_path: Path) -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    written = write_masks([PhotoMasks("a.jpg", (9, 9), (MaskRecord(encode_one(mask)),))], tmp_path, name)
    assert recognise(tmp_path) == name.removesuffix("_polygons") == recognise(written[0])
    assert np.array_equal(decode_one(read_masks(tmp_path)[0].masks[0].rle), mask)


def sample() -> list[PhotoMasks]:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:15] = True
    record = MaskRecord(encode_one(mask), 0.9, 0.97, (7.5, 7.5), (0, 0, 30, 20))
    return [PhotoMasks("a.jpg", (20, 30), (record,), 7)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools 2.0.11 under numpy 2.4
@pytest.mark.parametrize("name", ["coco", "coco_polygons"])
def test_pycocotools_reads_our_coco(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = write_masks(sample(), tmp_path, name)
    coco = COCO(str(path))
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[7]))
    assert annotation["bbox"] == [5, 5, 10, 5] and annotation["area"] == 50 == coco.annToMask(annotation).sum()


def test_sa1b_has_the_published_keys(tmp_path: Path) -> None:
    (path,) = write_masks(sample(), tmp_path, "sa1b")
    content = json.loads(path.read_text())
    assert content["image"] == {"image_id": 7, "width": 30, "height": 20, "file_name": "a.jpg"}
    (annotation,) = content["annotations"]
    assert annotation["bbox"] == [5, 5, 9, 4] and annotation["point_coords"] == [[7.5, 7.5]]
    published = "id segmentation bbox area predicted_iou stability_score crop_box point_coords"
    assert set(annotation) == set(published.split())


def test_png_table_has_the_published_header(tmp_path: Path) -> None:
    (path,) = write_masks(sample(), tmp_path, "png")
    header, row = csv.reader(path.read_text().splitlines())
    assert ",".join(header) == HEADER
    assert row == ["0", "50", "5", "5", "9", "4", "7.5", "7.5", "0.9", "0.97", "0", "0", "30", "20"]
    write_masks([PhotoMasks("a.jpg", (20, 30))], tmp_path, "png")
    assert not list((tmp_path / "a").glob("*.png"))


def test_official_records_come_and_go() -> None:
    mask = sample()[0].masks[0]
    for mode in ("coco_rle", "uncompressed_rle", "binary_mask"):
        record = mask.to_official(mode)
        assert list(record)[:3] == ["segmentation", "area", "bbox"]
        assert MaskRecord.of(record) == mask
    with pytest.raises(OptionError, match="coco_rle"):
        mask.to_official("rle")


@pytest.mark.parametrize("record", [{}, {"segmentation": {"size": [2, 2], "counts": [3]}}, {"segmentation": 4}])
def test_bad_records_are_refused(record: dict) -> None:
    with pytest.raises(InputError):
        MaskRecord.of(record)


def test_masks_must_fit_their_photo() -> None:
    with pytest.raises(InputError, match="does not fit the photo"):
        PhotoMasks("a.jpg", (4, 4), sample()[0].masks)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("sa1b", "a.json", "{", "cannot be read as JSON"),
        ("sa1b", "a.json", "[]", "expected a JSON object"),
        ("sa1b", "a.json", '{"image": {}}', "not in the expected form"),
        ("coco", "annotations.json", '{"images": [], "annotations": [{}]}', "not in the expected form"),
        ("labelme", "a.json", '{"shapes": [{"shape_type": "circle"}], "imageHeight": 3, "imageWidth": 3}', "circle"),
        ("yolo", "a.txt", "0 0.1 0.2 0.3 0.4 0.5 0.6\n", "size of photo"),
        ("png", "metadata.csv", HEADER + "\n0,1,1,1,1,1,1,1,1,1,1,1,1,1\n", "0.png is in the table"),
        ("labelmap", "a.png", "nothing", "no readable PNG"),
    ],
)
def test_broken_files_are_named(name: str, file: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_masks(tmp_path, name)


def test_unknown_formats_and_paths(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Did you mean 'labelmap'"):
        write_masks([], tmp_path, "labelmp")
    with pytest.raises(InputError, match="holds no masks"):
        read_masks(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_masks(tmp_path / "nowhere")
