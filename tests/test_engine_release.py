"""Proves: what is given away is small, blurred as claimed, without EXIF, and whole; masks fit; it can be repeated."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.engine import app
from anymask.core.errors import InputError, OptionError
from anymask.core.rle import decode_one, encode_one
from anymask.data.readers import open_dataset
from anymask.engine.blur import Detector, blur_boxes, load_detector
from anymask.engine.photos import add_photos
from anymask.engine.records import NewMask
from anymask.engine.release import MANIFEST, ReleasePlan, release
from anymask.engine.release_photo import release_photo, released_hw, scale_record, scale_rle
from anymask.engine.store import Store, make_store
from anymask.engine.versions import add_masks
from anymask.predict.formats import read_masks
from anymask.predict.records import MaskRecord

HW = (90, 120)
FACE = (slice(24, 40), slice(56, 72))  # a white square, which the test's detectors look for


def boxes_of_white(image: np.ndarray) -> np.ndarray:
    """A detector: the box of all white pixels."""
    y, x = np.nonzero((image > 240).all(axis=2))
    return np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]]) if y.size else np.zeros((0, 4))


def noise(seed: int, hw: tuple[int, int] = HW) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (*hw, 3), dtype=np.uint8)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Five photos with two masks each, the first with a face, GPS and a thumbnail's worth of EXIF."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        image = noise(number)
        exif = Image.Exif()
        if number == 0:
            image[FACE] = 255
            exif[0x010F] = "SECRET CAMERA"
            exif.get_ifd(0x8825)[1] = "N"
        Image.fromarray(image).save(tmp_path / "photos" / f"secret{number}.png", exif=exif)
    store = make_store(tmp_path / "s.db", "street")
    project = store.project_id()
    add_photos(store, project, [tmp_path / "photos"])
    for image in store.images(project):
        mask = np.zeros(HW, dtype=bool)
        mask[10:50, 20:80] = True
        more = {"point_xy": [30.0, 40.0], "crop_xywh": [0.0, 0.0, 120.0, 90.0]}
        record = NewMask(encode_one(mask), "m1", "model", prompts=more, predicted_iou=0.9, stability_score=0.97)
        add_masks(store, image.id, [record, NewMask(encode_one(~mask), "anna")], 3)
    store.close()
    return tmp_path / "s.db"


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def opened(database: Path) -> tuple[Store, int]:
    store = make_store(database, "street")
    return store, store.project_id()


def test_a_release_from_the_command_line(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    detector = f"{__name__}:boxes_of_white"
    shown = run("release", str(database), str(out), "--faces", detector, "--short-side", "45")
    assert "5 photos, 10 masks, 1 shards (0 were there)" in shown
    assert "faces: 1 blurred on 1 photos" in shown and "plates: not blurred" in shown
    everything = b"".join(path.read_bytes() for path in out.iterdir() if path.is_file())
    assert b"SECRET" not in everything and b"secret" not in everything and b"Exif" not in everything
    photos = list(open_dataset(out / "sa_000000.tar"))
    assert [photo.name.split(".")[0] for photo in photos] == [f"sa_{n}" for n in range(1, 6)]
    assert {photo.hw for photo in photos} == {(45, 60)}
    face = np.asarray(Image.open(io.BytesIO(photos[0].encoded)))[12:20, 28:36]
    assert face.mean() < 235 and face.std() < 40, "the white square has become a smooth spot"
    (first, *_) = read_masks(out / "sa_000000.tar")
    assert first.masks[0].coco_box_xywh == [10, 5, 30, 20] and first.masks[0].point_xy == (15.0, 20.0)
    assert first.masks[0].crop_xywh == (0, 0, 60, 45) and first.masks[0].predicted_iou == 0.9
    manifest = json.loads((out / MANIFEST).read_text())
    digest = hashlib.sha256((out / "sa_000000.tar").read_bytes()).hexdigest()
    assert manifest["shards"][0]["sha256"] == digest and digest in (out / "sha256sums.txt").read_text()
    assert manifest["blurred"]["faces"]["regions"] == 1 and manifest["blurred"]["plates"] is None
    card = (out / "DATASET_CARD.md").read_text()
    assert (
        "1 regions on 1 photos" in card and "**Plates were not blurred.**" in card and "5 photos with 10 masks" in card
    )
    assert "10 masks on 5 photos, 5 by people, 5 by models" in (out / "ANNOTATION_CARD.md").read_text()


def test_answers_go_into_the_cards(database: Path, tmp_path: Path) -> None:
    out, about = tmp_path / "out", tmp_path / "about.toml"
    words = ("release", str(database), str(out), "--unblurred", "--about", str(about))
    assert "questions of the cards are open" in run(*words)
    assert all(answer == "" for answer in tomllib.loads(about.read_text()).values())
    about.write_text('licence = "CC BY 4.0"\n')
    assert "(1 were there)" in run(*words)
    assert "CC BY 4.0" in (out / "DATASET_CARD.md").read_text()
    about.write_text("license = 1\n")
    with pytest.raises(InputError, match="no question 'license'"):
        run(*words)


def test_blurring_is_never_claimed_without_a_detector(database: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(OptionError, match="no detector was named"):
        run("release", str(database), out)
    with pytest.raises(OptionError, match="--unblurred says"):
        run("release", str(database), out, "--unblurred", "--faces", "x.onnx")
    with pytest.raises(InputError, match=r"no file nothing\.onnx"):
        run("release", str(database), out, "--faces", "nothing.onnx")
    with pytest.raises(OptionError, match="no installed package offers a detector"):
        run("release", str(database), out, "--plates", "plates")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="no detector that OpenCV"):
        run("release", str(database), out, "--faces", str(tmp_path / "bad.onnx"))
    with pytest.raises(InputError, match=r"shape \(2, 3\); expected boxes \(N, 4\)"):
        Detector("faces", "wrong", lambda image: np.zeros((2, 3))).boxes(noise(0))
    assert not Path(out).exists()


def test_a_bad_photo_is_told_and_tried_again(database: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "out", tmp_path / "photos" / "secret1.png"
    content = photo.read_bytes()
    photo.unlink()
    store, project = opened(database)
    plan = ReleasePlan(out, photos_per_shard=2)
    first = release(store, project, plan)
    assert [name for name, _ in first.problems] == ["secret1.png"] and "is gone" in first.problems[0][1]
    assert (first.num_photos, len(first.shards)) == (4, 3)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    photo.write_bytes(content)
    second = release(store, project, plan)
    assert (second.num_photos, second.num_skipped, second.problems) == (5, 2, [])
    assert times["sa_000002.tar"] == (out / "sa_000002.tar").stat().st_mtime_ns
    numbers = [image.name.split(".")[0] for image in open_dataset(out / "sa_000000.tar")]
    assert numbers == ["sa_1", "sa_2"], "a photo that comes back has the number that waited for it"
    release(store, project, ReleasePlan(out, photos_per_shard=5))
    assert sorted(path.name for path in out.glob("*.tar")) == ["sa_000000.tar"], "what was too many has gone"
    store.close()


def test_what_changed_is_made_anew_and_other_folders_are_left_alone(database: Path, tmp_path: Path) -> None:
    store, project = opened(database)
    plan = ReleasePlan(tmp_path / "out", photos_per_shard=2)
    release(store, project, plan)
    image = list(store.images(project))[2]
    add_masks(store, image.id, [NewMask(encode_one(np.eye(*HW, dtype=bool)), "anna")])
    assert release(store, project, plan).num_skipped == 2
    with pytest.raises(InputError, match="holds something else"):
        release(store, project, ReleasePlan(tmp_path / "photos"))
    with pytest.raises(InputError, match="nothing to release"):
        release(store, project, ReleasePlan(tmp_path / "none", stage=2))
    store.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
from anymask.engine.release import ReleasePlan, release
from anymask.engine.store import open_store
def on_photo(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
store = open_store(sys.argv[1])
release(store, store.project_id(), ReleasePlan(Path(sys.argv[2]), photos_per_shard=2), on_photo)
"""


def test_a_killed_release_goes_on_and_gives_the_same_bytes(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(database), str(out)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in out.glob("*.tar")] == ["sa_000000.tar"] and not (out / MANIFEST).exists()
    store, project = opened(database)
    assert release(store, project, ReleasePlan(out, photos_per_shard=2)).num_skipped == 1
    release(store, project, ReleasePlan(tmp_path / "again", photos_per_shard=2))
    store.close()
    for shard in out.glob("*.tar"):
        assert shard.read_bytes() == (tmp_path / "again" / shard.name).read_bytes()


_FULL = """
import resource, sys
from anymask.cli.main import run
from anymask.engine import release
finished = release.sha256_of
def then_full(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # from the first finished shard on
    return finished(path)
release.sha256_of = then_full
release.ReleasePlan.__init__.__defaults__ = (*release.ReleasePlan.__init__.__defaults__[:-1], 2)
sys.argv = ["anymask", "engine", "release", sys.argv[1], sys.argv[2], "--unblurred"]
run()
"""


def test_a_full_disk_is_told_and_finished_shards_stay(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", _FULL, str(database), str(out)], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "File too large" in done.stderr, done.stderr
    assert [path.name for path in out.iterdir() if path.is_file()] == ["sa_000000.tar"], "nothing half is left"
    store, project = opened(database)
    assert release(store, project, ReleasePlan(out, photos_per_shard=2)).num_skipped == 1
    store.close()


def test_photos_are_shrunk_upright_and_never_enlarged(tmp_path: Path) -> None:
    assert released_hw((3300, 4950), 1500) == (1500, 2250)
    assert released_hw((480, 640), 1500) == (480, 640)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1)).save(tmp_path / "turned.jpg", exif=exif)
    photo = release_photo(tmp_path / "turned.jpg", [], [], 60)
    assert photo.hw == (80, 60) and b"Exif" not in photo.encoded
    assert Image.open(io.BytesIO(photo.encoded)).size == (60, 80)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.data())
def test_scaled_masks_cover_what_the_mask_covers_by_half(h: int, w: int, new_h: int, new_w: int, data) -> None:
    new_h, new_w = min(h, new_h), min(w, new_w)
    mask = np.zeros((h, w), dtype=bool)
    for _ in range(data.draw(st.integers(0, 3))):
        y, x = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
        mask[y : y + data.draw(st.integers(1, h)), x : x + data.draw(st.integers(1, w))] ^= True
    fine = mask.repeat(new_h, axis=0).repeat(new_w, axis=1)  # both grids meet here
    coverage = fine.reshape(new_h, h, new_w, w).mean(axis=(1, 3))
    scaled = decode_one(scale_rle(encode_one(mask), (new_h, new_w)))
    clear = np.abs(coverage - 0.5) > 1e-3
    assert (scaled == (coverage >= 0.5))[clear].all()


def test_a_mask_without_a_pixel_left_is_counted(tmp_path: Path) -> None:
    Image.fromarray(noise(1)).save(tmp_path / "a.png")
    speck = np.zeros(HW, dtype=bool)
    speck[0, 0] = True
    photo = release_photo(tmp_path / "a.png", [MaskRecord(encode_one(speck))], [], 30)
    assert (photo.masks, photo.num_vanished) == ((), 1)
    assert scale_record(MaskRecord(encode_one(speck)), (30, 40)).num_px == 0


def test_blur_leaves_no_detail_in_the_box_and_all_outside() -> None:
    image = noise(3, (200, 300))
    box = np.array([[100.0, 50.0, 160.0, 130.0]])
    done = blur_boxes(image, box)
    assert done[50:130, 100:160].astype(float).std(axis=(0, 1)).max() < 12 < image[50:130, 100:160].std()
    changed = (done != image).any(axis=2)
    assert not changed[:, :60].any() and not changed[:, 220:].any() and not changed[180:].any()
    assert blur_boxes(image, np.zeros((0, 4))) is image
    edge = blur_boxes(image, np.array([[280.0, 190.0, 300.0, 200.0]]))
    assert (edge != image).any()


def yunet_like(path: Path) -> None:
    """A graph with YuNet's twelve outputs that finds white squares of 16 pixels and more: a mean over each cell."""
    nodes, outputs = [helper.make_node("ReduceMean", ["input"], ["gray"], axes=[1], keepdims=1)], []
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, -1, 1])
    initial = [shape, helper.make_tensor("low", TensorProto.FLOAT, [], [230.0])]
    initial.append(helper.make_tensor("range", TensorProto.FLOAT, [], [20.0]))
    for stride in (8, 16, 32):
        s = [stride, stride]
        nodes += [
            helper.make_node("AveragePool", ["gray"], [f"mean{stride}"], kernel_shape=s, strides=s),
            helper.make_node("Sub", [f"mean{stride}", "low"], [f"over{stride}"]),
            helper.make_node("Div", [f"over{stride}", "range"], [f"part{stride}"]),
            helper.make_node("Clip", [f"part{stride}", "zero", "one"], [f"clip{stride}"]),
            helper.make_node("Reshape", [f"clip{stride}", "shape"], [f"cls_{stride}"]),
            helper.make_node("Identity", [f"cls_{stride}"], [f"obj_{stride}"]),
            helper.make_node("Mul", [f"cls_{stride}", "zero"], [f"none{stride}"]),
            helper.make_node("Concat", [f"none{stride}"] * 4, [f"bbox_{stride}"], axis=2),
            helper.make_node("Concat", [f"none{stride}"] * 10, [f"kps_{stride}"], axis=2),
        ]
    initial += [helper.make_tensor(name, TensorProto.FLOAT, [], [v]) for name, v in (("zero", 0.0), ("one", 1.0))]
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            outputs.append(helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [1, None, width]))
    given_ = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph(nodes, "yunet", [given_], outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)


def test_opencvs_yunet_interface_finds_and_blurs(tmp_path: Path) -> None:
    yunet_like(tmp_path / "yunet.onnx")
    detector = load_detector("faces", str(tmp_path / "yunet.onnx"))
    assert detector.sha256 == hashlib.sha256((tmp_path / "yunet.onnx").read_bytes()).hexdigest()
    image = noise(5, (320, 320))
    assert len(detector.boxes(image)) == 0
    image[64:96, 128:160] = 255
    boxes = detector.boxes(image)
    assert len(boxes) and boxes[:, :2].min() >= 40 and boxes[:, 2:].max() < 180
    assert (blur_boxes(image, boxes)[60:100, 124:164] != image[60:100, 124:164]).mean() > 0.5


def test_the_shards_are_plain_tar(database: Path, tmp_path: Path) -> None:
    store, project = opened(database)
    release(store, project, ReleasePlan(tmp_path / "out"))
    store.close()
    with tarfile.open(tmp_path / "out" / "sa_000000.tar") as tar:
        names = tar.getnames()
        record = json.load(tar.extractfile("sa_1.json"))  # type: ignore[arg-type]
    assert names[:4] == ["sa_1.jpg", "sa_1.json", "sa_2.jpg", "sa_2.json"]
    assert record["image"] == {"image_id": 1, "width": 120, "height": 90, "file_name": "sa_1.jpg"}
    keys = "id segmentation bbox area predicted_iou stability_score crop_box point_coords"
    assert set(record["annotations"][0]) == set(keys.split())
