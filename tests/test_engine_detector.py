"""Proves: stage 2's detector learns from stage-1 masks and prompts the model; its candidates stay apart from masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_discs import disc_store, stage_one
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import CheckpointError, InputError
from anymask.core.images import read_image
from anymask.core.masks import mask_iou
from anymask.core.rle import decode_one, encode_one, to_bbox_xywh
from anymask.engine.detector import load_detector, save_detector
from anymask.engine.detector_training import DetectorRecipe, stage_one_boxes, train_detector
from anymask.engine.leases import next_task, save_masks
from anymask.engine.prefill import Prefiller, PrefillRules
from anymask.engine.records import NewMask
from anymask.engine.report import make_report, status
from anymask.engine.stages import PREFILL, begin_stage, remaining_images
from anymask.engine.store import Store
from anymask.engine.truth import Truth
from anymask.predict.segmenter import TorchSegmenter
from anymask.train.cache import encoder_key
from anymask.weights.load import load_model


@pytest.fixture(scope="module")
def lite() -> TorchSegmenter:
    return TorchSegmenter(load_model("lite"))


def annotated(folder: Path, num_photos: int, num_done: int) -> tuple[Store, int, Truth]:
    """A store whose first photos have their true masks, of stage 1."""
    store, project, truth = disc_store(folder, num_photos)
    stage_one(store, project, num_done)
    while lease := next_task(store, project, "anna"):
        objects = truth.objects(store.image(lease.image_id).sha256)
        assert objects is not None
        save_masks(store, lease, [NewMask(encode_one(mask), "anna") for mask in objects], finish=True)
    return store, project, truth


def test_a_detector_that_learned_finds_objects_and_prefills_other_photos(tmp_path: Path, lite: TorchSegmenter) -> None:
    store, project, truth = annotated(tmp_path, 8, 6)
    data = stage_one_boxes(store, project)
    assert data.num_boxes == 18
    trained, facts = train_detector(store, lite, data, DetectorRecipe(steps=50, photos=1, lr=1e-3))
    assert (facts["num_photos"], facts["steps"]) == (6, 50)
    save_detector(trained, tmp_path / "detector.safetensors", facts)
    detector = load_detector(tmp_path / "detector.safetensors", encoder_key(lite.sam))
    image = store.image(data.image_ids[0])
    (embedding,) = lite.encode([read_image(Path(image.place))])
    found = detector.find(embedding, 0.3)
    assert len(found.boxes_xyxy) and (np.diff(found.scores) <= 0).all()
    wanted = [to_bbox_xywh(encode_one(mask)) for mask in truth.objects(image.sha256)]
    assert max(box_iou(found.boxes_xyxy[0], box) for box in wanted) > 0.5

    rest = remaining_images(store, project)
    begin_stage(store, project, 2, rest, PREFILL)
    rules = PrefillRules(min_predicted_iou=0.5, min_stability=0.5, stability_offset=0.25)
    done = Prefiller(store, lite, detector, rules).work(project)
    assert done.num_photos == 2 and done.num_masks > 0
    assert status(store, project).tasks[PREFILL] == {"done": 2}
    assert next_task(store, project, "bob").image_id in rest, "people add what is missing"
    ious = []
    for mask in store.masks(rest):
        assert (mask.state, mask.author_kind, mask.stage, mask.seconds) == ("proposed", "model", 2, None)
        assert mask.prompts.keys() == {"box_xyxy", "box_score"} and mask.prompts["box_score"] >= rules.min_score
        assert mask.predicted_iou >= rules.min_predicted_iou and mask.stability_score >= rules.min_stability
        objects = truth.objects(store.image(mask.image_id).sha256)
        ious.append(max(mask_iou(decode_one(mask.rle), target) for target in objects))
    assert np.median(ious) > 0.5, ious
    second = make_report(store, project).stages[-1]
    assert (second.num_timed, second.num_by_models) == (0, done.num_masks)
    store.close()


def box_iou(xyxy: np.ndarray, xywh: list[int]) -> float:
    x, y, w, h = xywh
    low, high = np.maximum(xyxy[:2], (x, y)), np.minimum(xyxy[2:], (x + w, y + h))
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(xyxy[2:] - xyxy[:2]) + w * h - shared))


def test_a_detector_cannot_be_trained_on_nothing(tmp_path: Path) -> None:
    store, project, _ = disc_store(tmp_path, 2)
    stage_one(store, project)
    with pytest.raises(InputError, match=r"no masks of stage 1 .* Annotate photos first"):
        stage_one_boxes(store, project)
    lease = next_task(store, project, "anna")
    mask = np.zeros(store.image(lease.image_id).hw, bool)
    mask[:9, :9] = True
    save_masks(store, lease, [NewMask(encode_one(mask), "anna", state="rejected")])
    with pytest.raises(InputError, match="no masks of stage 1"):
        stage_one_boxes(store, project)
    store.close()
    with pytest.raises(InputError, match="no masks of stage 1"):
        run("detector", str(tmp_path / "masks.db"), "-o", str(tmp_path / "d.safetensors"))


def test_photos_that_are_gone_are_left_out_and_none_left_is_told(tmp_path: Path, lite: TorchSegmenter) -> None:
    store, project, _ = annotated(tmp_path, 2, 2)
    data, told = stage_one_boxes(store, project), []
    Path(store.image(data.image_ids[0]).place).unlink()
    _, facts = train_detector(store, lite, data, DetectorRecipe(steps=1), told.append)
    assert facts["num_photos"] == 1 and "is gone" in told[0]
    Path(store.image(data.image_ids[1]).place).unlink()
    with pytest.raises(InputError, match="none of the photos"):
        train_detector(store, lite, data, DetectorRecipe(steps=1))
    store.close()


def test_a_detector_of_another_model_or_no_detector_is_refused(tmp_path: Path, lite: TorchSegmenter) -> None:
    store, project, _ = annotated(tmp_path, 1, 1)
    trained, facts = train_detector(store, lite, stage_one_boxes(store, project), DetectorRecipe(steps=1))
    save_detector(trained, tmp_path / "d.safetensors", facts)
    with pytest.raises(CheckpointError, match=r"another model's embeddings .* Train it again"):
        load_detector(tmp_path / "d.safetensors", "0" * 16)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("broken", "absent"):
        with pytest.raises(CheckpointError, match="is no detector"):
            load_detector(tmp_path / f"{name}.safetensors", "0" * 16)
    store.close()


def test_the_commands(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path, 3, 2)
    place, file = str(tmp_path / "masks.db"), str(tmp_path / "d.safetensors")
    assert "6 boxes of 2 photos" in run("detector", place, "-o", file, "--steps", "2")
    shown = run("prefill", place, "--detector", file, "--min-score", "0.9")
    assert "1 photos prefilled" in shown
    assert status(store, project).tasks["annotate"] == {"done": 2, "open": 1}
    facts = store.current_round(project)
    assert (facts.stage, facts.number) == (2, 2)
    store.close()


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["engine", *words], catch_exceptions=True)
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output
