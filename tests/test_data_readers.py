"""Proves: every documented layout is recognised and read exactly; what is broken is named, or skipped and counted."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from anymask.core.errors import InputError, MissingExtraError, OptionError
from anymask.core.rle import decode, encode, encode_one, to_uncompressed
from anymask.data.filters import MaskFilter
from anymask.data.readers import (
    DataError,
    Photo,
    Problems,
    layout_of,
    open_dataset,
    read_bsds,
    read_coco,
    read_davis,
    read_shards,
    read_voc,
)

H, W = 20, 30


def jpeg(hw: tuple[int, int] = (H, W), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*hw, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write(path: Path, content: bytes | str | np.ndarray | dict, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
        if mode == "P":
            image.putpalette(list(range(256)) * 3)
        image.save(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def two_boxes() -> np.ndarray:
    """Label map (H, W) uint8: 1 at the left, 2 below right, 0 elsewhere."""
    labels = np.zeros((H, W), np.uint8)
    labels[2:12, 3:10] = 1
    labels[10:18, 15:28] = 2
    return labels


def masks_of(photo: Photo) -> np.ndarray:
    return decode(photo.rles)


def assert_two_boxes(photo: Photo) -> None:
    assert photo.hw == (H, W)
    assert np.array_equal(masks_of(photo), np.stack([two_boxes() == 1, two_boxes() == 2]))


def sa1b_record(masks: np.ndarray, hw: tuple[int, int] = (H, W), **extra: Any) -> dict[str, Any]:
    annotations = [{"id": i, "segmentation": rle, **extra} for i, rle in enumerate(encode(masks))]
    return {"image": {"image_id": 1, "width": hw[1], "height": hw[0]}, "annotations": annotations}


def both_masks() -> np.ndarray:
    return np.stack([two_boxes() == 1, two_boxes() == 2])


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def record_bytes(**options: Any) -> bytes:
    return json.dumps(sa1b_record(both_masks(), **options)).encode()


def test_sa1b_shards_and_folder(tmp_path: Path) -> None:
    files = {"a.jpg": jpeg(), "a.json": record_bytes(category="box"), "b.json": record_bytes(), "b.jpg": jpeg()}
    shard = tar_of(tmp_path / "shards" / "boxes-000.tar", files)
    for name, content in files.items():
        write(tmp_path / "loose" / name, content)
    for path, layout in ((shard, "SA-1B shards"), (shard.parent, "SA-1B shards"), (tmp_path / "loose", "SA-1B folder")):
        photos = list(open_dataset(path))
        assert layout_of(path) == layout
        assert [p.name for p in photos] == ["a", "b"]
        assert photos[0].labels == ["box", "box"]
        assert_two_boxes(photos[1])
    assert read_shards([shard])[0].source == "boxes"


def test_a_broken_photo_in_the_middle_of_a_shard(tmp_path: Path) -> None:
    cut = jpeg((200, 200))[:3000]
    large = json.dumps(sa1b_record(np.ones((1, 40, 60), bool), hw=(H, W))).encode()
    files = {"a.jpg": jpeg(), "a.json": record_bytes(), "b.jpg": cut, "b.json": record_bytes()}
    files |= {"c.jpg": jpeg(), "c.json": b'{"image": ', "d.jpg": jpeg(), "d.json": large}
    files |= {"e.jpg": jpeg(), "e.json": record_bytes(hw=(W, H)), "f.jpg": b"", "f.json": record_bytes()}
    shard = tar_of(tmp_path / "x-000.tar", {**files, "g.jpg": jpeg(), "g.json": record_bytes()})
    with pytest.raises(DataError, match=r"b\.jpg.*cut off"):
        read_shards([shard])
    problems = Problems()
    photos = list(open_dataset(shard, problems=problems))
    assert [(p.name, len(p.rles)) for p in photos] == [("a", 2), ("d", 0), ("g", 2)]
    assert problems.counts() == {"unreadable photo": 2, "broken record": 1, "size mismatch": 2}
    assert "x-000.tar/c.json" in problems.found[1].file
    assert any("EXIF" in p.message for p in problems.found)


def test_a_shard_that_is_cut_off_or_lacks_a_partner(tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "x-000.tar", {"a.jpg": jpeg(), "a.json": record_bytes(), "b.jpg": jpeg((300, 300))})
    with pytest.raises(InputError, match="lack a photo or a JSON file: b"):
        read_shards([shard])
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(InputError, match="not a readable tar"):
        read_shards([shard])
    problems = Problems()
    assert [p.name for p in open_dataset(shard, problems=problems)] == ["a"]
    assert problems


def damaged(counts: Any) -> dict[str, Any]:
    return {"size": [H, W], "counts": counts}


@pytest.mark.parametrize("rle", [damaged(""), damaged("\x01"), damaged("1"), damaged([5]), damaged(7), 3, damaged("é")])
def test_damaged_rle_is_named(tmp_path: Path, rle: Any) -> None:
    record = sa1b_record(both_masks())
    record["annotations"][1]["segmentation"] = rle
    record["annotations"].append({"segmentation": to_uncompressed(encode_one(two_boxes() == 1))})
    write(tmp_path / "a.json", record)
    write(tmp_path / "a.jpg", jpeg())
    with pytest.raises(DataError, match=r"a\.json: mask 1 "):
        list(open_dataset(tmp_path))
    problems = Problems()
    (photo,) = open_dataset(tmp_path, problems=problems)
    assert np.array_equal(masks_of(photo), both_masks()[[0, 0]])
    assert problems.counts() == {"broken mask": 1}


def test_the_fast_check_of_rles_agrees_with_the_slow_one() -> None:
    from anymask.data.readers.photo import check_rles

    rng = np.random.default_rng(0)
    rles = encode(rng.random((40, 17, 23)) < rng.random((40, 1, 1)))
    assert check_rles(rles, (17, 23)) == {}
    assert set(check_rles([*rles, {**rles[0], "counts": rles[0]["counts"][:-2]}], (17, 23))) == {40}
    assert set(check_rles(rles[:2], (23, 17))) == {0, 1}


def coco(tmp_path: Path, annotations: list[dict], **image: Any) -> Path:
    write(tmp_path / "val2017" / "7.jpg", jpeg())
    record = {"id": 7, "file_name": "7.jpg", "height": H, "width": W, **image}
    categories = [{"id": 3, "name": "crate"}]
    content = {"images": [record], "annotations": annotations, "categories": categories}
    return write(tmp_path / "annotations" / "instances_val2017.json", content)


def annotation(segmentation: Any, **extra: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation, **extra}


LEFT = [3, 2, 10, 2, 10, 12, 3, 12]
RIGHT = [15, 10, 28, 10, 28, 18, 15, 18]


def test_coco_polygons_rle_and_crowds(tmp_path: Path) -> None:
    whole = to_uncompressed(encode_one(two_boxes() > 0))
    path = coco(
        tmp_path,
        [annotation([LEFT]), annotation([RIGHT]), annotation([LEFT, RIGHT]), annotation(whole, iscrowd=1)],
    )
    (photo,) = open_dataset(tmp_path)
    assert layout_of(path) == layout_of(tmp_path) == "COCO or LVIS"
    assert photo.labels == ["crate"] * 3
    assert np.array_equal(masks_of(photo), [*both_masks(), two_boxes() > 0])
    (photo,) = read_coco(path, crowd=True)
    assert np.array_equal(masks_of(photo)[3], two_boxes() > 0)


def test_lvis_names_photos_by_their_address(tmp_path: Path) -> None:
    url = "http://images.cocodataset.org/val2017/7.jpg"
    path = coco(tmp_path, [annotation([LEFT])], coco_url=url)
    content = json.loads(path.read_text())
    del content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    (photo,) = read_coco(path, images=tmp_path)
    assert photo.name == "7.jpg" and len(photo.rles) == 1


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([[3, 2, 10, 2, 10, 12 + H]], "out of range"),
        ([[3, 2, 10, 2]], "broken mask"),
        ([[3, 2, 10, 2, 10]], "broken mask"),
        ([[3, 2, 10, 2, 10, float("nan")]], "broken mask"),
        ([], "broken mask"),
        (None, "broken mask"),
        ({"size": [W, H], "counts": [W * H]}, "out of range"),
        ({"size": [H, W], "counts": [W]}, "broken mask"),
    ],
)
def test_coco_masks_that_cannot_be(tmp_path: Path, segmentation: Any, kind: str) -> None:
    path = coco(tmp_path, [annotation(segmentation), annotation([LEFT])])
    with pytest.raises(DataError, match=r"annotation 1 of 7\.jpg"):
        list(read_coco(path))
    problems = Problems()
    (photo,) = read_coco(path, problems=problems)
    assert len(photo.rles) == 1
    assert problems.counts() == {kind: 1}


def test_coco_that_is_broken(tmp_path: Path) -> None:
    path = coco(tmp_path, [{"image_id": 8, "segmentation": [LEFT]}], height=40)
    with pytest.raises(DataError, match="belongs to no entry"):
        list(read_coco(path))
    problems = Problems()
    assert list(read_coco(path, problems=problems)) == []
    assert problems.counts() == {"broken record": 1, "size mismatch": 1}
    (tmp_path / "val2017" / "7.jpg").unlink()
    with pytest.raises(InputError, match="not there"):
        list(read_coco(coco(tmp_path / "b", []), images=tmp_path / "val2017"))
    for text in ('{"images": [', "[]", '{"images": []}', '{"images": [{}], "annotations": []}'):
        with pytest.raises(DataError, match=r"c\.json: (not|an entry)"):
            list(read_coco(write(tmp_path / "c.json", text)))


def test_voc(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    objects = two_boxes()
    objects[0] = 255
    classes = np.where(two_boxes() == 1, 8, np.where(two_boxes() == 2, 15, 0)).astype(np.uint8)
    write(root / "JPEGImages" / "a.jpg", jpeg())
    write(root / "JPEGImages" / "no_masks.jpg", jpeg())
    write(root / "SegmentationObject" / "a.png", objects, "P")
    write(root / "SegmentationClass" / "a.png", classes, "P")
    write(root / "ImageSets" / "Segmentation" / "val.txt", "a\n")
    for path in (root, tmp_path):
        (photo,) = open_dataset(path)
        assert layout_of(path) == "Pascal VOC"
        assert_two_boxes(photo)
        assert photo.labels == ["cat", "person"]
    assert [p.name for p in read_voc(root, "val")] == ["a"]
    with pytest.raises(OptionError, match="Known: val"):
        read_voc(root, "vall")


def test_davis(tmp_path: Path) -> None:
    for video, labels in (("bear", 255 * (two_boxes() == 1).astype(np.uint8)), ("cats", two_boxes())):
        for frame in ("00000", "00001", "00002"):
            write(tmp_path / "JPEGImages" / "480p" / video / f"{frame}.jpg", jpeg())
            write(tmp_path / "Annotations" / "480p" / video / f"{frame}.png", labels, "P")
    photos = list(open_dataset(tmp_path))
    assert layout_of(tmp_path) == "DAVIS"
    assert [len(p.rles) for p in photos] == [1, 1, 1, 2, 2, 2]
    assert_two_boxes(photos[3])
    assert [p.name for p in read_davis(tmp_path, every=2)][:2] == ["bear/00000", "bear/00002"]
    with pytest.raises(OptionError, match="480p"):
        read_davis(tmp_path, "1080p")
    (tmp_path / "JPEGImages" / "480p" / "cats" / "00001.jpg").unlink()
    problems = Problems()
    assert len(list(open_dataset(tmp_path, problems=problems))) == 5
    assert problems.counts() == {"missing file": 1}


def test_bsds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = np.empty((1, 2), object)
    for i, labels in enumerate((two_boxes() + 1, (two_boxes() > 0) + 1)):
        people[0, i] = {"Segmentation": labels.astype(np.uint16), "Boundaries": np.zeros((H, W), np.uint8)}
    folder = tmp_path / "BSDS500" / "data"
    write(folder / "images" / "val" / "3.jpg", jpeg())
    write(folder / "groundTruth" / "val" / "3.mat", b"")
    scipy.io.savemat(folder / "groundTruth" / "val" / "3.mat", {"groundTruth": people})
    (photo,) = open_dataset(tmp_path)
    assert layout_of(folder) == "BSDS500"
    assert len(photo.rles) == 3 + 2
    assert np.array_equal(masks_of(photo)[1:3], both_masks())
    (photo,) = read_bsds(folder, annotator=1)
    assert np.array_equal(masks_of(photo)[1], two_boxes() > 0)
    write(folder / "groundTruth" / "val" / "3.mat", b"not matlab")
    with pytest.raises(DataError, match=r"3\.mat: not BSDS500"):
        list(open_dataset(tmp_path))
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anymask\[data\]'"):
        list(open_dataset(tmp_path))


def test_a_folder_of_images_and_masks(tmp_path: Path) -> None:
    colours = np.zeros((H, W, 3), np.uint8)
    colours[two_boxes() == 1], colours[two_boxes() == 2] = (0, 0, 255), (255, 0, 0)
    for name in ("indexed", "sixteen", "colour", "binary", "files"):
        write(tmp_path / "images" / f"{name}.jpg", jpeg())
    write(tmp_path / "masks" / "indexed.png", two_boxes())
    write(tmp_path / "masks" / "sixteen.png", two_boxes().astype(np.uint16) * 1000)
    write(tmp_path / "masks" / "colour.png", colours)
    write(tmp_path / "masks" / "binary.png", two_boxes() == 1)
    write(tmp_path / "masks" / "files" / "0.png", two_boxes() == 1)
    write(tmp_path / "masks" / "files" / "lid.png", (two_boxes() == 2).astype(np.uint8) * 255)
    photos = {p.name: p for p in open_dataset(tmp_path)}
    assert layout_of(tmp_path) == "images and masks"
    for name in ("indexed", "sixteen", "colour", "files"):
        assert_two_boxes(photos[name])
    assert np.array_equal(masks_of(photos["binary"])[0], two_boxes() == 1)
    assert photos["files"].labels == [None, "lid"]


def test_soft_edges_are_one_mask_and_a_photo_is_none(tmp_path: Path) -> None:
    y, x = np.mgrid[:100, :100]
    distance = 40 - np.hypot(y - 50, x - 50)
    soft = (255 * np.clip(distance / 2 + 0.5, 0, 1)).astype(np.uint8)
    write(tmp_path / "images" / "a.png", jpeg((100, 100)))
    write(tmp_path / "masks" / "a.png", soft)
    assert len(np.unique(soft)) > 20
    (photo,) = open_dataset(tmp_path)
    assert np.array_equal(masks_of(photo)[0], soft > 127)
    big = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    write(tmp_path / "masks" / "a.png", big)
    with pytest.raises(DataError, match="different values"):
        list(open_dataset(tmp_path))


def test_what_is_wrong_in_a_folder_is_counted(tmp_path: Path) -> None:
    for name in ("good", "alone", "larger", "jpeg", "text"):
        write(tmp_path / "images" / f"{name}.jpg", jpeg())
    write(tmp_path / "masks" / "good.png", two_boxes())
    write(tmp_path / "masks" / "larger.png", np.ones((H + 1, W), np.uint8))
    write(tmp_path / "masks" / "jpeg.jpg", jpeg())
    write(tmp_path / "masks" / "text.png", b"hello")
    write(tmp_path / "masks" / "orphan.png", two_boxes())
    problems = Problems()
    assert [p.name for p in open_dataset(tmp_path, problems=problems)] == ["good"]
    assert problems.counts() == {"missing file": 2, "broken record": 2, "size mismatch": 1}
    with pytest.raises(DataError, match="orphan"):
        list(open_dataset(tmp_path))


def test_an_unknown_layout_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it is empty.*\n.*SA-1B shards(.|\n)*COCO"):
        open_dataset(tmp_path)
    write(tmp_path / "notes.txt", "x")
    with pytest.raises(InputError, match=r"it holds notes\.txt"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        open_dataset(tmp_path / "nowhere")
    write(tmp_path / "a.json", '{"images": [], "annotations": []}')
    write(tmp_path / "b.json", '{"images": [], "annotations": []}')
    with pytest.raises(InputError, match=r"2 COCO files: a\.json, b\.json"):
        open_dataset(tmp_path)


def test_a_filter_drops_by_share_and_pixels() -> None:
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :3], masks[1, 0, :2], masks[2] = True, True, True
    photo = Photo("a", "s", b"", (10, 10), encode(masks), ["a", "b", "c", "d"])
    assert MaskFilter(max_share=0.9, min_area_px=1)(photo).labels == ["a", "b"]
    assert MaskFilter(min_share=0.1)(photo).labels == ["a", "c"]
    assert MaskFilter()(photo).labels == ["a", "b", "c"]  # an empty mask is never kept
    with pytest.raises(OptionError, match="max_share"):
        MaskFilter(max_share=1.5)


def test_problems_survive_a_worker_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(DataError("broken mask", "a.json", "no")))
    assert error.problem.kind == "broken mask" and str(error) == "a.json: no"
