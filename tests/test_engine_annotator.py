"""Proves: the simulated annotator marks what the truth holds, by leases, in the paper's time; stops lose nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_discs import disc_store, stage_one
from engine_worker import some_masks
from test_engine_store import HW, fill, place, server, store  # noqa: F401 - fixtures

from anymask.core.errors import InputError
from anymask.core.masks import mask_iou
from anymask.core.rle import decode_one
from anymask.engine.annotator import SimulatedAnnotator
from anymask.engine.leases import next_task
from anymask.engine.models import first_version, load_version
from anymask.engine.report import make_report, status
from anymask.engine.simulated_clicks import Hand, draw_masks
from anymask.engine.stages import begin_stage, find_round, num_open, remaining_images
from anymask.engine.store import Store
from anymask.engine.truth import read_truth
from anymask.engine.versions import add_masks
from anymask.predict.segmenter import TorchSegmenter

ALL_DAY = Hand(max_clicks=3, move_on_s=1e9)


@pytest.fixture(scope="module")
def lite() -> TorchSegmenter:
    from anymask.weights.load import load_model

    return TorchSegmenter(load_model("lite"))


def test_every_object_is_marked_largest_first_and_timed(tmp_path: Path, lite: TorchSegmenter) -> None:
    kept, project, truth = disc_store(tmp_path)
    stage_one(kept, project, 3)
    done = SimulatedAnnotator(kept, lite, truth, hand=ALL_DAY).work(project)
    assert (done.num_photos, done.num_masks, done.skipped) == (3, 9, ())
    assert status(kept, project).tasks == {"annotate": {"done": 3}}
    for image in kept.images(project):
        masks = kept.masks([image.id])
        objects = truth.objects(image.sha256)
        assert len(masks) in (0, 3) and objects is not None
        for mask, target in zip(masks, objects):
            assert mask_iou(decode_one(mask.rle), target) >= ALL_DAY.satisfied_iou
            assert (mask.author_kind, mask.state, mask.stage) == ("person", "accepted", 1)
            clicks = mask.prompts["points_xy"]
            assert len(clicks) == len(mask.prompts["labels"]) <= ALL_DAY.max_clicks
            x, y = clicks[0]
            assert target[y, x], "the first click is inside the object"
            brushed = 1 - mask.prompts["model_iou"] if mask.prompts["brushed"] else 0
            assert mask.seconds == pytest.approx(ALL_DAY.seconds(len(clicks), brushed), abs=0.01)
    (stage,) = make_report(kept, project).stages
    assert stage.seconds_per_mask > 0 and stage.num_by_people == 9
    kept.close()


def test_more_clicks_make_the_models_masks_better(tmp_path: Path, lite: TorchSegmenter) -> None:
    _, _, truth = disc_store(tmp_path)
    (photo, *_) = truth.photos.values()
    from anymask.core.images import read_image

    (embedding,) = lite.encode([read_image(photo.encoded)])
    (objects,) = [truth.objects(sha) for sha, known in truth.photos.items() if known is photo]
    one, six = (np.mean([d.model_iou for d in draw_masks(lite, embedding, objects, Hand(0.99, num))]) for num in (1, 6))
    assert six > one


def test_after_a_slow_mask_the_annotator_moves_on(tmp_path: Path, lite: TorchSegmenter) -> None:
    kept, project, truth = disc_store(tmp_path, 2)
    stage_one(kept, project)
    impatient = Hand(move_on_s=0.1)  # every mask is slow
    done = SimulatedAnnotator(kept, lite, truth, hand=impatient).work(project)
    assert (done.num_photos, done.num_masks) == (2, 2)
    kept.close()


def test_prefilled_masks_are_accepted_corrected_or_removed_and_not_counted_as_time(
    tmp_path: Path, lite: TorchSegmenter
) -> None:
    from anymask.core.rle import encode_one
    from anymask.engine.corrections import compare_corrected
    from anymask.engine.records import NewMask
    from anymask.engine.report_details import make_details

    kept, project, truth = disc_store(tmp_path, 1)
    begin_stage(kept, project, 2, remaining_images(kept, project))
    (image,) = kept.images(project)
    objects = truth.objects(image.sha256)
    assert objects is not None
    nonsense, near = np.zeros(objects.shape[1:], bool), objects[2].copy()
    nonsense[:5, :5] = True
    rows = np.flatnonzero(near.any(axis=1))
    near[rows[: len(rows) // 4]] = False
    assert 0.5 < mask_iou(near, objects[2]) < 0.9
    prefilled = [NewMask(encode_one(m), "detector", "model") for m in (objects[1], nonsense, near, near)]
    good, bad, odd, twin = add_masks(kept, image.id, prefilled)
    annotator = SimulatedAnnotator(kept, lite, truth, hand=ALL_DAY)
    assert annotator.work(project).num_masks == 1  # the other two objects are there already
    states = {mask.id: mask.state for mask in kept.masks([image.id], all_versions=True)}
    assert (states[good], states[bad], states[twin], len(states)) == ("accepted", "rejected", "rejected", 6)
    (fixed,) = (mask for mask in kept.masks([image.id]) if mask.parent_id == odd)
    assert fixed.state == "accepted" and mask_iou(decode_one(fixed.rle), objects[2]) >= ALL_DAY.satisfied_iou
    clicks = len(fixed.prompts["points_xy"])
    brushed = 1 - fixed.prompts["model_iou"] if fixed.prompts["brushed"] else 0
    assert fixed.seconds == pytest.approx(ALL_DAY.look_s + ALL_DAY.click_s * clicks + 91 * brushed, abs=0.01)
    (stage,) = make_report(kept, project).stages
    assert (stage.num_timed, stage.num_masks, stage.num_by_models, stage.num_edited) == (1, 3, 1, 1)
    found = compare_corrected(kept, project, stages=[2])
    assert (found.num_same, found.num_edited, found.num_rejected) == (1, 1, 2)
    (person,) = make_details(kept, project).people
    assert person.num_reviews == 4 and person.seconds > 3 * ALL_DAY.look_s + fixed.seconds
    kept.close()


def test_a_killed_annotator_goes_on_where_it_was(tmp_path: Path, lite: TorchSegmenter) -> None:
    kept, project, truth = disc_store(tmp_path, 2)
    stage_one(kept, project)
    first_version(kept, project)
    command = [sys.executable, str(Path(__file__).with_name("engine_annotator.py"))]
    command += [str(tmp_path / "masks.db"), str(tmp_path / "discs")]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline().startswith("saved")
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=60)
    assert status(kept, project).num_masks == 1
    person = SimulatedAnnotator(kept, load_version(first_version(kept, project)), truth, "anna")
    person.work(project)
    keys = [mask.prompts["points_xy"][0] for i in kept.images(project) for mask in kept.masks([i.id])]
    assert len(keys) == len({str(key) for key in keys}), "no object is there twice"
    assert status(kept, project).tasks == {"annotate": {"done": 2}}
    kept.close()


def test_photos_that_are_gone_or_without_truth_are_skipped_and_told(tmp_path: Path, lite: TorchSegmenter) -> None:
    kept, project, truth = disc_store(tmp_path, 3)
    stage_one(kept, project)
    one, two, _ = kept.images(project)
    Path(one.place).unlink()
    del truth.photos[two.sha256]
    done = SimulatedAnnotator(kept, lite, truth).work(project)
    assert done.num_photos == 1
    told = " ".join(reason for _, reason in done.skipped)
    assert len(done.skipped) == 2 and "is gone" in told and "no ground truth" in told
    assert status(kept, project).tasks == {"annotate": {"done": 1, "skipped": 2}}
    kept.close()


def test_a_new_stage_closes_the_open_tasks_of_the_one_before(store: Store) -> None:  # noqa: F811
    project, _ = fill(store, 4)
    held = next_task(store, project, "anna")
    others = [i for i in remaining_images(store, project) if i != held.image_id]
    now = begin_stage(store, project, 2, others[:2], facts={"step": 2})
    assert (now.number, now.stage) == (2, 2)
    assert find_round(store, project, step=2) == now and find_round(store, project, step=3) is None
    assert num_open(store, now.id, "annotate") == 2
    assert status(store, project).tasks == {"annotate": {"leased": 1, "open": 2, "skipped": 3}}
    assert {next_task(store, project, "bob").image_id, next_task(store, project, "carl").image_id} == set(others[:2])


def test_the_first_round_is_taken_over_as_long_as_it_is_empty(store: Store) -> None:  # noqa: F811
    project, ids = fill(store, 2)
    now = begin_stage(store, project, 1, ids[:1], facts={"step": 1})
    assert now.number == 1 and find_round(store, project, step=1) == now
    assert status(store, project).tasks == {"annotate": {"open": 1, "skipped": 1}}
    add_masks(store, ids[0], some_masks(HW, "anna", 1, "key"))
    assert begin_stage(store, project, 1, ids[1:]).number == 2
    assert remaining_images(store, project) == ids[1:]


def test_truth_without_masks_is_refused(tmp_path: Path) -> None:
    from train_data import write_discs

    from anymask.data.readers import Photo, open_dataset
    from anymask.data.shards import write_shard

    photos = [Photo(p.name, p.source, p.encoded, p.hw, []) for p in open_dataset(write_discs(tmp_path / "discs"))]
    write_shard(photos, tmp_path / "bare.tar")
    with pytest.raises(InputError, match=r"no mask in .*bare\.tar; the simulated annotator needs"):
        read_truth([tmp_path / "bare.tar"])
