"""Proves: people annotate and review a project in a real Chromium, and the store holds what they did: a session of
stage 1, one of stage 2 with prefilled masks, a second look, work that goes on while the server is dead, and masks
that are rated."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_tools import Server, build_app, disc, needs_browser, play, png

from anymask import load_model
from anymask.core.rle import decode_one, encode_one
from anymask.engine.leases import add_tasks
from anymask.engine.models import serve as let_serve
from anymask.engine.photos import add_photos
from anymask.engine.records import NewMask
from anymask.engine.report import make_report
from anymask.engine.reviews import history
from anymask.engine.store import Store, make_store
from anymask.engine.versions import add_masks
from anymask.evaluate.human_study import make_study, open_study
from anymask.predict.formats import write_masks
from anymask.predict.records import MaskRecord, PhotoMasks
from anymask.weights.save import save_model

pytestmark = needs_browser


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path / "masks.db")
    yield made
    made.close()


def serve(home: Path, tmp_path: Path, port: int = 0) -> Server:
    build_app()
    return Server(home, "--store", str(tmp_path / "masks.db"), "--port", str(port))


def test_masks_are_rated_without_knowing_whose_they_are(browser_home: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    png(tmp_path / "photos" / "disc.png", disc())
    truth = (disc() == (240, 190, 50)).all(-1)
    for method, mask in (("exact", truth), ("shifted", np.roll(truth, 40, 1))):
        record = MaskRecord(encode_one(mask), point_xy=(268.0, 180.0))
        write_masks([PhotoMasks("disc.png", truth.shape, (record,), 1)], tmp_path / method, "sa1b")
    methods = {name: tmp_path / name for name in ("exact", "shifted")}
    study = make_study(tmp_path / "study", tmp_path / "photos", methods)
    build_app()
    server = Server(browser_home, "--ratings", str(study.folder))
    try:
        play("rate", server, tmp_path)
    finally:
        server.stop()
    assert sorted(row["rating"] for row in open_study(study.folder).ratings()) == [8, 10]


def with_photos(store: Store, folder: Path, num: int) -> list[int]:
    files = [png(folder / f"photo{i}.png", disc(360, 480 - 20 * i, seed=i)) for i in range(num)]
    add_photos(store, store.project_id(), files)
    return [image.id for image in store.images(store.project_id())]


def box(store: Store, image_id: int, x0: float, y0: float, x1: float, y1: float) -> NewMask:
    """A mask that a model proposes; sides as shares of the photo's."""
    height, width = store.image(image_id).hw or (0, 0)
    mask = np.zeros((height, width), bool)
    mask[int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width)] = True
    return NewMask(encode_one(mask), "lite", "model", predicted_iou=0.93, stability_score=0.97)


def test_a_session_of_stage_1(store: Store, browser_home: Path, tmp_path: Path) -> None:
    first, second, third = with_photos(store, tmp_path, 3)
    server = serve(browser_home, tmp_path)
    try:
        play("annotate", server, tmp_path)
    finally:
        server.stop()
    disc_mask, stripe = sorted(store.masks([first]), key=lambda m: m.label or "")
    assert (disc_mask.label, stripe.label, stripe.version) == (None, "stripe", 2)
    assert {m.state for m in (disc_mask, stripe)} == {"proposed"} and disc_mask.author == "anna"
    assert [r["action"] for r in history(store, disc_mask.id)] == ["reject", "undo"], "undo and redo, nothing else"
    assert disc_mask.seconds and 0 < disc_mask.seconds < 600 and disc_mask.stage == 1
    assert disc_mask.prompts is not None and disc_mask.prompts["clicks"][0]["adds"] is True
    truth = (disc(360, 480) == (240, 190, 50)).all(-1)
    got = decode_one(disc_mask.rle)
    assert (got & truth).sum() / (got | truth).sum() > 0.8
    assert not store.masks([second]) and len(store.masks([third])) == 1
    report = make_report(store, store.project_id())
    assert report.tasks == {"annotate": {"done": 2, "skipped": 1}, "review": {"open": 2}}
    assert report.stages[0].num_timed == 3


def test_a_session_of_stage_2_then_a_second_look(store: Store, browser_home: Path, tmp_path: Path) -> None:
    (image_id,) = with_photos(store, tmp_path, 1)
    store.start_round(store.project_id(), 2)
    with store.transaction(writes=True) as connection:
        connection.exec_driver_sql("DELETE FROM tasks")
    add_tasks(store, store.project_id(), [image_id])
    places = [(0.02, 0.02, 0.2, 0.2), (0.05, 0.6, 0.2, 0.9), (0.7, 0.7, 0.95, 0.95)]
    ids = add_masks(store, image_id, [box(store, image_id, *place) for place in places], stage=2)
    server = serve(browser_home, tmp_path)
    try:
        play("prefilled", server, tmp_path)
        masks = store.masks([image_id])
        kept, rejected = (next(m for m in masks if m.id == i) for i in ids[:2])
        (corrected,) = (m for m in masks if m.parent_id == ids[2])
        (added,) = (m for m in masks if m.id > ids[2] and m.parent_id is None)
        assert (kept.id, kept.state, kept.author_kind, kept.seconds) == (ids[0], "proposed", "model", None)
        assert (rejected.id, rejected.state) == (ids[1], "rejected")
        assert (corrected.parent_id, corrected.author, corrected.version, corrected.stage) == (ids[2], "anna", 2, 2)
        assert corrected.num_px < 0.25 * 0.25 * 360 * 480
        assert (added.author, added.stage, added.version) == ("anna", 2, 1)
        stage = make_report(store, store.project_id()).stages[0]
        assert stage.num_timed == 1 and stage.seconds == pytest.approx(added.seconds), "prefilled time is not counted"

        play("review", server, tmp_path)
    finally:
        server.stop()
    now = {m.id: m for m in store.masks([image_id])}
    assert now[ids[0]].state == now[corrected.id].state == "accepted"
    assert [r["action"] for r in history(store, corrected.id)] == ["reject", "undo", "accept"]
    (edited,) = [m for m in now.values() if m.parent_id == added.id]
    assert (edited.author, edited.state, edited.version) == ("ben", "accepted", 2) and edited.num_px > added.num_px
    report = make_report(store, store.project_id())
    assert report.tasks == {"annotate": {"done": 1}, "review": {"done": 1}}


def test_a_newer_model_is_taken_over_between_two_photos(store: Store, browser_home: Path, tmp_path: Path) -> None:
    first, second = with_photos(store, tmp_path, 2)
    newer = load_model("lite")
    newer.mask_decoder.iou_prediction_head.layers[-1].bias.data += 0.01
    save_model(newer, tmp_path / "newer.safetensors", "lite")

    def promote() -> None:
        while not (tmp_path / "promote").exists():
            time.sleep(0.05)
        let_serve(store, store.project_id(), str(tmp_path / "newer.safetensors"))

    server = serve(browser_home, tmp_path)
    waiting = threading.Thread(target=promote)
    waiting.start()
    try:
        play("newer", server, tmp_path, promote=str(tmp_path / "promote"))
    finally:
        (tmp_path / "promote").touch()
        waiting.join()
        server.stop()
    assert len(store.masks([first])) == len(store.masks([second])) == 1


def test_nothing_is_lost_or_doubled_when_the_server_dies(store: Store, browser_home: Path, tmp_path: Path) -> None:
    first, second = with_photos(store, tmp_path, 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = serve(browser_home, tmp_path, port)
    command = [sys.executable, "-m", "anymask", "serve", "--port", str(port), "--store", str(tmp_path / "masks.db")]
    env = {"ANYMASK_HOME": str(browser_home), "ANYMASK_OFFLINE": "1"}
    try:
        play("lostConnection", server, tmp_path, restart=command, env=env)
    finally:
        server.stop()
    assert len(store.masks([first], all_versions=True)) == 2
    assert len(store.masks([second], all_versions=True)) == 1
    assert make_report(store, store.project_id()).tasks["annotate"] == {"done": 2}
