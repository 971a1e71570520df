"""Proves: the server gives a photo to one person at a time, repeats no step that is sent twice, keeps people apart,
shows photos of its project by id alone, and says in words what is gone, taken or unknown."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from anymask.core.rle import encode
from anymask.engine.models import ModelVersion, ModelWatch, load_version, serve
from anymask.engine.photos import add_photos
from anymask.engine.records import NewMask
from anymask.engine.reviews import history
from anymask.engine.store import Store, make_store
from anymask.engine.versions import add_masks
from anymask.model.sam import Sam
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.lane import BusyError
from anymask.server.model_switch import ModelSwitch
from anymask.server.project import Project
from anymask.server.schemas import Prompt
from anymask.server.settings import Settings
from anymask.server.studio import BrowserModel, Studio
from anymask.weights.save import save_model

HW = (60, 80)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Three photos in a project, another project with one."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.bmp", "secret.png"):
        Image.fromarray(rng.integers(0, 255, (*HW, 3), dtype=np.uint8)).save(tmp_path / name)
    made = make_store(tmp_path / "masks.db")
    add_photos(made, made.project_id("default"), [tmp_path / n for n in ("a.png", "b.png", "c.bmp")])
    add_photos(made, made.add_project("other"), [tmp_path / "secret.png"])
    yield made
    made.close()


@asynccontextmanager
async def served(sam: Sam, store: Store, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    project = Project(store, store.project_id("default"), "default", **options)
    app = create_app(TorchSegmenter(sam), Settings(), project=project)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            client.studio = app.state.studio  # type: ignore[attr-defined]
            yield client
    finally:
        await asyncio.to_thread(app.state.studio.stop)


def play(sam: Sam, store: Store, run: Any, **options: Any) -> None:
    async def go() -> None:
        async with served(sam, store, **options) as client:
            await run(client)

    asyncio.run(go())


def box_rle(x0: int, y0: int, x1: int, y1: int, hw: tuple[int, int] = HW) -> dict[str, Any]:
    mask = np.zeros(hw, bool)
    mask[y0:y1, x0:x1] = True
    return dict(encode(mask[None])[0])


def drawn(key: str, rle: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"save_key": f"key-{key:0>6}", "segmentation": rle or box_rle(10, 10, 40, 40), **more}


async def take(client: httpx.AsyncClient, worker: str, kind: str = "annotate", besides: tuple[int, ...] = ()) -> Any:
    body = {"worker": worker, "kind": kind, "besides": list(besides)}
    answer = await client.post("/api/tasks/next", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["task"]


def hold(task: Any, worker: str) -> dict[str, Any]:
    return {"worker": worker, "token": task["token"]}


def test_two_people_get_two_photos_and_one_can_be_fetched_ahead(lite_random: Sam, store: Store) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        anna, ben = await take(client, "anna"), await take(client, "ben")
        assert anna["image_id"] != ben["image_id"] and anna["masks"] == []
        assert (await take(client, "anna"))["id"] == anna["id"], "who holds a photo gets it again"
        ahead = await take(client, "anna", besides=(anna["id"],))
        assert ahead["id"] not in (anna["id"], ben["id"])
        assert await take(client, "carl") is None
        assert (await client.post(f"/api/tasks/{ben['id']}/release", json=hold(ben, "ben"))).status_code == 204
        assert (await take(client, "carl"))["id"] == ben["id"]
        about = (await client.get("/api/project")).json()
        assert about["annotate"] == {"leased": 3} and about["stage_name"] == "assisted-manual"

    play(lite_random, store, run)


def test_what_is_sent_twice_is_done_once(lite_random: Sam, store: Store) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        task = await take(client, "anna")
        mask = drawn("1", seconds=12.5, prompts={"clicks": [{"x": 20, "y": 20, "adds": True}]}, predicted_iou=0.9)
        body = {**hold(task, "anna"), "mask": mask}
        ids = [(await client.post(f"/api/tasks/{task['id']}/masks", json=body)).json()["id"] for _ in range(3)]
        assert len(set(ids)) == 1
        edit = {**hold(task, "anna"), "mask": drawn("2", box_rle(10, 10, 50, 50)), "replaces": ids[0]}
        edits = [(await client.post(f"/api/tasks/{task['id']}/masks", json=edit)).json()["id"] for _ in range(2)]
        done = [
            await client.post(f"/api/tasks/{task['id']}/finish", json={**hold(task, "anna"), "seconds": 30})
            for _ in range(2)
        ]
        assert [answer.status_code for answer in done] == [204, 204]
        again = await client.post(f"/api/tasks/{task['id']}/masks", json=body)
        assert again.json()["id"] == ids[0], "a save that arrives late once more is known"
        (stored,) = store.masks([task["image_id"]])
        assert (stored.id, stored.version, stored.author, stored.state) == (edits[0], 2, "anna", "proposed")
        (first,) = [m for m in store.masks([task["image_id"]], all_versions=True) if m.version == 1]
        assert first.seconds == 12.5 and first.prompts == {"clicks": [{"x": 20.0, "y": 20.0, "adds": True}]}
        new = await client.post(f"/api/tasks/{task['id']}/masks", json={**body, "mask": drawn("3")})
        assert new.status_code == 409 and "finished by anna" in new.json()["detail"]

    play(lite_random, store, run)


def test_reviews_go_to_somebody_else_and_can_be_repeated_and_undone(lite_random: Sam, store: Store) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        task = await take(client, "anna")
        body = {**hold(task, "anna"), "mask": drawn("1", seconds=8)}
        mask_id = (await client.post(f"/api/tasks/{task['id']}/masks", json=body)).json()["id"]
        await client.post(f"/api/tasks/{task['id']}/finish", json=hold(task, "anna"))
        assert await take(client, "anna", "review") is None, "nobody reviews their own"
        looked = await take(client, "ben", "review")
        assert [m["id"] for m in looked["masks"]] == [mask_id] and looked["masks"][0]["is_prefilled"] is False
        place = f"/api/masks/{mask_id}/reviews"
        accepted = [(await client.post(place, json={"reviewer": "ben", "action": "accept"})).json() for _ in range(2)]
        assert accepted[0] == accepted[1] == {"id": accepted[0]["id"], "mask_id": mask_id}
        undo = f"{place}/{accepted[0]['id']}/undo"
        undone = [(await client.post(undo, json={"reviewer": "ben"})).json() for _ in range(2)]
        assert undone[0] == undone[1] and store.masks([task["image_id"]])[0].state == "proposed"
        edit = {"reviewer": "ben", "action": "edit", "edited": drawn("9", box_rle(5, 5, 30, 30)), "note": "too large"}
        edited = [(await client.post(place, json=edit)).json() for _ in range(2)]
        assert edited[0] == edited[1] and edited[0]["mask_id"] != mask_id
        late = await client.post(place, json={"reviewer": "carl", "action": "reject"})
        assert late.status_code == 409 and "ben saved version 2" in late.json()["detail"]
        assert len(history(store, mask_id)) == 3
        events = (await client.get(f"/api/masks/{mask_id}/history")).json()["events"]
        assert [(e["what"], e["who"], e["version"]) for e in events] == [
            ("saved", "anna", 1),
            ("accept", "ben", 1),
            ("undo", "ben", 1),
            ("edit", "ben", 2),
        ]
        assert events[-1]["note"] == "too large"
        strange = await client.post(f"{place}/999/undo", json={"reviewer": "ben"})
        assert strange.status_code == 404

    play(lite_random, store, run)


def test_without_reviews_masks_count_at_once(lite_random: Sam, store: Store) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        task = await take(client, "anna")
        await client.post(f"/api/tasks/{task['id']}/masks", json={**hold(task, "anna"), "mask": drawn("1")})
        await client.post(f"/api/tasks/{task['id']}/finish", json=hold(task, "anna"))
        assert store.masks([task["image_id"]])[0].state == "accepted"
        assert await take(client, "ben", "review") is None

    play(lite_random, store, run, is_reviewed=False)


def test_prefilled_masks_come_along(lite_random: Sam, store: Store) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        project_id = store.project_id("default")
        first = next(iter(store.images(project_id))).id
        add_masks(store, first, [NewMask(box_rle(0, 0, 9, 9), "lite", "model", predicted_iou=0.95)], stage=2)
        task = await take(client, "anna")
        (mask,) = task["masks"]
        assert (task["image_id"], mask["is_prefilled"], mask["stage"]) == (first, True, 2)
        await client.post(f"/api/masks/{mask['id']}/reviews", json={"reviewer": "anna", "action": "reject"})
        assert (await take(client, "anna"))["masks"] == []

    play(lite_random, store, run)


def test_photos_come_by_id_and_only_those_of_the_project(lite_random: Sam, store: Store, tmp_path: Path) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        ids = {Path(image.place).name: image.id for image in store.images(store.project_id("default"))}
        (secret,) = [image.id for image in store.images(store.project_id("other"))]
        answer = await client.get(f"/api/project/images/{ids['a.png']}")
        assert answer.content == (tmp_path / "a.png").read_bytes() and answer.headers["content-type"] == "image/png"
        bitmap = await client.get(f"/api/project/images/{ids['c.bmp']}")
        assert bitmap.headers["content-type"] == "image/png", "what not every browser opens is converted"
        with Image.open(io.BytesIO(bitmap.content)) as got, Image.open(tmp_path / "c.bmp") as want:
            assert (np.asarray(got) == np.asarray(want)).all()
        for other in (secret, 10_000):
            for path in (f"/api/project/images/{other}", f"/api/project/images/{other}/embedding"):
                assert (await client.get(path)).status_code == 404
        assert (await client.get("/api/project/images/..%2f..%2fetc%2fpasswd")).status_code in (404, 422)
        embedding = await client.get(f"/api/project/images/{ids['b.png']}/embedding")
        assert len(embedding.content) == 2 * np.prod([int(n) for n in embedding.headers["x-anymask-shape"].split(",")])
        (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
        changed = await client.get(f"/api/project/images/{ids['a.png']}")
        assert changed.status_code == 410 and "has changed" in changed.json()["detail"]
        (tmp_path / "a.png").unlink()
        gone = await client.get(f"/api/project/images/{ids['a.png']}/embedding")
        assert gone.status_code == 410 and str(tmp_path) not in gone.text, "no path of the machine is told"

    play(lite_random, store, run)


def test_embeddings_of_photos_that_are_next_are_made_ahead(lite_random: Sam, store: Store, tmp_path: Path) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        await take(client, "anna")
        wanted = {hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()[:32] for n in ("a.png", "b.png", "c.bmp")}
        for _ in range(200):
            if all(client.studio.sessions.find(i) for i in wanted):  # type: ignore[attr-defined]
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the embeddings were not made")

    play(lite_random, store, run)


def test_wrong_requests_are_told(lite_random: Sam, store: Store) -> None:
    async def run(client: httpx.AsyncClient) -> None:
        task = await take(client, "anna")
        place = f"/api/tasks/{task['id']}/masks"
        size = await client.post(place, json={**hold(task, "anna"), "mask": drawn("1", box_rle(1, 1, 5, 5, (50, 50)))})
        assert size.status_code == 422 and "50×50" in size.json()["detail"]
        empty = await client.post(
            place, json={**hold(task, "anna"), "mask": drawn("1", {"size": list(HW), "counts": [HW[0] * HW[1]]})}
        )
        assert empty.status_code == 422 and "empty" in empty.json()["detail"]
        thief = await client.post(place, json={"worker": "ben", "token": "0" * 32, "mask": drawn("1")})
        assert thief.status_code == 409 and "anna" in thief.json()["detail"]
        assert (await client.post("/api/tasks/777/renew", json=hold(task, "anna"))).status_code == 404
        assert (await client.post("/api/tasks/next", json={"worker": "  "})).status_code == 422
        assert (
            await client.post("/api/masks/5/reviews", json={"reviewer": "b", "action": "accept"})
        ).status_code == 404
        assert not store.masks([task["image_id"]])

    play(lite_random, store, run)


def test_a_server_without_a_project_says_so(lite_random: Sam, store: Store) -> None:
    async def run() -> None:
        app = create_app(TorchSegmenter(lite_random), Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            answer = await client.get("/api/project")
            assert answer.status_code == 404 and "--store" in answer.json()["detail"]
        await asyncio.to_thread(app.state.studio.stop)

    asyncio.run(run())


def test_a_promoted_model_is_taken_over_without_a_restart(lite_random: Sam, store: Store, tmp_path: Path) -> None:
    other = copy.deepcopy(lite_random)
    other.mask_decoder.iou_token.weight.data += 1.0
    other.prompt_encoder.no_mask_embed.weight.data += 1.0
    save_model(other, tmp_path / "v1.safetensors", "lite")
    loaded: list[str] = []

    def load(version: ModelVersion) -> tuple[TorchSegmenter, BrowserModel]:
        loaded.append(version.name)
        return load_version(version, "cpu", "fp32"), BrowserModel()

    async def run(client: httpx.AsyncClient) -> None:
        studio: Studio = client.studio  # type: ignore[attr-defined]
        project_id = store.project_id("default")
        held = await studio.encode((tmp_path / "a.png").read_bytes())
        prompt = Prompt(points=[[20, 20]], labels=[1])
        old = await studio.predict(held, [prompt], True)
        switch = ModelSwitch(studio, ModelWatch(store, project_id), load, every=0.05)
        task = await take(client, "anna")
        embedding = f"/api/project/images/{task['image_id']}/embedding"
        before = (await client.get("/api/project")).json()["model"], (await client.get(embedding)).content
        switch.start()
        await asyncio.sleep(0.2)
        assert not loaded, "no version was promoted yet"
        serve(store, project_id, str(tmp_path / "v1.safetensors"))
        while not loaded or (await client.get("/api/project")).json()["model"] == before[0]:
            await asyncio.sleep(0.05)
        about = (await client.get("/api/model")).json()
        assert about["name"] == "v0" and about["stamp"] != before[0]
        assert (await client.post(f"/api/tasks/{task['id']}/renew", json=hold(task, "anna"))).status_code == 204
        assert len(studio.sessions) == 0, "embeddings of the old model are gone"
        assert (await client.get(embedding)).status_code == 200
        assert await studio.predict(held, [prompt], True) == old, "an old embedding is answered by its own model"
        renewed = await studio.encode((tmp_path / "a.png").read_bytes())
        assert await studio.predict(renewed, [prompt], True) != old

        (tmp_path / "v2.safetensors").write_bytes((tmp_path / "v1.safetensors").read_bytes())
        serve(store, project_id, str(tmp_path / "v2.safetensors"))
        (tmp_path / "v2.safetensors").write_bytes(b"another file")
        while len(loaded) < 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert (await client.get("/api/model")).json()["name"] == "v0", "the model in use stays"
        switch.stop()

    play(lite_random, store, run)


def test_a_full_line_does_not_lose_a_version(lite_random: Sam, store: Store) -> None:
    class Full:
        tries = 0

        def adopt(self, segmenter: object, browser: object, name: str) -> None:
            self.tries += 1
            if self.tries < 3:
                raise BusyError(1)

    project_id, studio = store.project_id("default"), Full()
    watch = ModelWatch(store, project_id)
    serve(store, project_id, "lite")
    switch = ModelSwitch(studio, watch, lambda version: (TorchSegmenter(lite_random), BrowserModel()))  # type: ignore[arg-type]
    taken = switch.look()
    assert taken is not None and taken.name == "v0" and studio.tries == 3
    assert switch.look() is None
