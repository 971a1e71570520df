"""Proves: the server answers as the predictor does, several clients share calls without changing the answer, every
bound holds (cache, line, uploads), long work can be stopped, and a stop is graceful."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from anymask.core.rle import decode_one
from anymask.model.sam import Sam
from anymask.predict.predictor import SamPredictor
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.lane import BULK, CLICK, BusyError, Lane
from anymask.server.settings import Settings


def png(image: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    return encoded.getvalue()


@asynccontextmanager
async def served(sam: Any, settings: Settings | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this process, and a stop at the end."""
    segmenter = sam if hasattr(sam, "encode") and hasattr(sam, "side") else TorchSegmenter(sam)
    app = create_app(segmenter, settings or Settings(), **options)
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            client.studio = app.state.studio  # type: ignore[attr-defined]
            yield client
    finally:
        await asyncio.to_thread(app.state.studio.stop)


async def upload(client: httpx.AsyncClient, image: np.ndarray) -> str:
    answer = await client.post("/api/images", content=png(image))
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


CLICK_PROMPT = {"points": [[90, 60]], "labels": [1]}


def test_answers_are_those_of_the_predictor(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        async with served(lite_random) as client:
            photo_id = await upload(client, photo)
            prompts = [
                CLICK_PROMPT,
                {"points": [[90, 60], [10, 10]], "labels": [1, 0]},
                {"box": [60, 30, 120, 90]},
                {"points": [[80, 60]], "labels": [1], "box": [60, 30, 120, 90]},
            ]
            answer = await client.post(f"/api/images/{photo_id}/predict", json={"prompts": prompts, "multimask": True})
            assert answer.status_code == 200, answer.text
            predictor = SamPredictor(lite_random)
            predictor.set_image(photo)
            for prompt, found in zip(prompts, answer.json()["objects"], strict=True):
                points, labels = prompt.get("points"), prompt.get("labels")
                masks, iou, _ = predictor.predict(points, labels, prompt.get("box"))
                order = np.argsort(-iou, kind="stable")
                for candidate, i in zip(found["candidates"], order, strict=True):
                    assert candidate["predicted_iou"] == pytest.approx(float(iou[i]), abs=1e-4)
                    difference = decode_one(candidate["segmentation"]) ^ masks[i]
                    assert difference.mean() < 1e-3

    asyncio.run(run())


def test_a_mask_goes_in_as_a_prompt(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        async with served(lite_random) as client:
            photo_id = await upload(client, photo)
            first = (await client.post(f"/api/images/{photo_id}/predict", json={"prompts": [CLICK_PROMPT]})).json()
            mask = first["objects"][0]["candidates"][0]["segmentation"]
            again = await client.post(
                f"/api/images/{photo_id}/predict", json={"prompts": [{**CLICK_PROMPT, "mask": mask}]}
            )
            assert len(again.json()["objects"][0]["candidates"]) == 1  # a click and a mask are no longer ambiguous
            wrong = {"size": [5, 5], "counts": [25]}
            refused = await client.post(f"/api/images/{photo_id}/predict", json={"prompts": [{"mask": wrong}]})
            assert refused.status_code == 422 and "size" in refused.json()["detail"]

    asyncio.run(run())


def test_the_embedding_comes_as_float16(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        async with served(lite_random) as client:
            photo_id = await upload(client, photo)
            answer = await client.get(f"/api/images/{photo_id}/embedding")
            shape = [int(n) for n in answer.headers["x-anymask-shape"].split(",")]
            got = np.frombuffer(answer.content, "<f2").reshape(shape)
            want = TorchSegmenter(lite_random).encode([photo])[0].features[0].numpy()
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3)
            assert (await client.delete(f"/api/images/{photo_id}")).status_code == 204
            gone = await client.get(f"/api/images/{photo_id}/embedding")
            assert gone.status_code == 404 and "upload" in gone.json()["detail"]

    asyncio.run(run())


class Slow:
    """A segmenter that waits to be let go, and notes how many prompts each call had."""

    def __init__(self, sam: Sam) -> None:
        self._inner = TorchSegmenter(sam)
        self.side, self.mask_threshold = self._inner.side, 0.0
        self.go, self.entered, self.calls = threading.Event(), threading.Event(), []
        self.encoded = 0

    def encode(self, images: list[Any]) -> Any:
        self.encoded += len(images)
        return self._inner.encode(images)

    def decode(self, embedding: Any, prompts: Any, multimask: bool) -> Any:
        self.entered.set()
        assert self.go.wait(30)
        self.calls.append(len(prompts.points_xy))
        return self._inner.decode(embedding, prompts, multimask)


def test_clicks_that_wait_share_a_call_and_get_their_own_answers(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        slow = Slow(lite_random)
        async with served(slow) as client:
            photo_id = await upload(client, photo)
            clicks = [{"points": [[10 + 15 * i, 60]], "labels": [1]} for i in range(9)]
            url = f"/api/images/{photo_id}/predict"
            tasks = [asyncio.create_task(client.post(url, json={"prompts": [clicks[0]]}))]
            await asyncio.to_thread(slow.entered.wait, 30)  # alone: two that come at once would share this call
            tasks += [asyncio.create_task(client.post(url, json={"prompts": [click]})) for click in clicks[1:]]
            while client.studio.lane.waiting < 8:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            slow.go.set()
            together = [answer.json()["objects"][0] for answer in await asyncio.gather(*tasks)]
            assert slow.calls == [1, 8]
            for click, answer in zip(clicks, together):
                alone = (await client.post(url, json={"prompts": [click]})).json()["objects"][0]
                for a, b in zip(answer["candidates"], alone["candidates"]):
                    assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-4)
                    assert (decode_one(a["segmentation"]) ^ decode_one(b["segmentation"])).mean() < 1e-3

    asyncio.run(run())


def test_a_full_line_answers_503_and_when_to_return(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        slow = Slow(lite_random)
        async with served(slow, Settings(waiting_jobs=2)) as client:
            photo_id = await upload(client, photo)
            url = f"/api/images/{photo_id}/predict"
            body = {"prompts": [CLICK_PROMPT]}
            tasks = [asyncio.create_task(client.post(url, json=body))]
            await asyncio.to_thread(slow.entered.wait, 30)
            tasks += [asyncio.create_task(client.post(url, json=body)) for _ in range(5)]
            while client.studio.lane.waiting < 2:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            slow.go.set()
            answers = await asyncio.gather(*tasks)
            assert sorted(a.status_code for a in answers) == [200, 200, 200, 503, 503, 503]
            assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)

    asyncio.run(run())


def test_the_cache_is_bounded_in_bytes_and_the_longest_unused_goes(lite_random: Sam, photo: np.ndarray) -> None:
    one = 4 * 256 * 32 * 32

    async def run() -> None:
        async with served(lite_random, Settings(cache_bytes=2 * one + 1)) as client:
            client.studio.words.is_there = False  # type: ignore[attr-defined] # so no pictures are kept
            ids = [await upload(client, photo)]
            ids.append(await upload(client, photo[::-1]))
            assert (await client.get(f"/api/images/{ids[0]}/embedding")).status_code == 200  # used: stays
            ids.append(await upload(client, photo[:, ::-1]))
            there = [(await client.get(f"/api/images/{i}/embedding")).status_code for i in ids]
            assert there == [200, 404, 200]
            text = (await client.get("/metrics")).text
            assert "anymask_evictions_total 1.0" in text
            held = next(line for line in text.splitlines() if line.startswith("anymask_cache_bytes "))
            assert float(held.split()[1]) == 2 * one

    asyncio.run(run())


def test_the_same_photo_is_encoded_once(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        slow = Slow(lite_random)
        async with served(slow) as client:
            ids = await asyncio.gather(*(upload(client, photo) for _ in range(4)))
            assert len(set(ids)) == 1 and slow.encoded == 1

    asyncio.run(run())


def test_everything_streams_progress_and_then_masks(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        async with served(lite_random) as client:
            photo_id = await upload(client, photo)
            options = {"points_per_side": 8, "pred_iou_thresh": 0, "stability_score_thresh": 0}
            answer = await client.post(f"/api/images/{photo_id}/everything", json=options)
            events = [json.loads(line) for line in answer.text.splitlines()]
            assert [e["done"] for e in events[:-1]] == [16, 32, 48, 64]
            assert all(e["total"] == 64 for e in events[:-1])
            assert events[-1]["masks"]
            for mask in events[-1]["masks"]:
                assert decode_one(mask["segmentation"]).sum() == mask["area"]

    asyncio.run(run())


def test_everything_ends_when_nobody_listens(lite_random: Sam, photo: np.ndarray) -> None:
    """Through the generator itself: the in-process client of the other tests reads a stream to its end."""

    async def run() -> None:
        slow = Slow(lite_random)
        slow.go.set()
        async with served(slow) as client:
            photo_id = await upload(client, photo)
            studio = client.studio  # type: ignore[attr-defined]
            from anymask.predict.options import AutomaticOptions

            events = studio.everything(studio.sessions.get(photo_id), AutomaticOptions.of("lite", points_per_side=32))
            assert (await anext(events))["type"] == "progress"
            await events.aclose()
            await asyncio.sleep(0.5)
            calls = len(slow.calls)
            assert calls < 60
            await asyncio.sleep(0.5)
            assert len(slow.calls) == calls

    asyncio.run(run())


@pytest.mark.parametrize(
    "name", ["coco", "coco_polygons", "yolo", "sa1b", "labelme", "cvat", "label_studio", "png", "labelmap"]
)
def test_every_export_reads_back(name: str, lite_random: Sam, photo: np.ndarray, tmp_path: Any) -> None:
    from anymask.core.rle import encode_one
    from anymask.predict.formats import read_masks

    mask = photo[..., 0] > 150

    async def run() -> httpx.Response:
        async with served(lite_random) as client:
            body = {
                "format": name,
                "file_name": "../../a photo.jpg",
                "width": 160,
                "height": 120,
                "objects": [{"segmentation": encode_one(mask), "label": "disc", "predicted_iou": 0.9}],
            }
            return await client.post("/api/export", json=body)

    answer = asyncio.run(run())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith('attachment; filename="a photo.')
    if answer.headers["content-type"] == "application/zip":
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
    else:
        suffix = {"image/png": ".png", "application/xml": ".xml"}.get(answer.headers["content-type"], ".json")
        (tmp_path / ("a photo" + suffix)).write_bytes(answer.content)
    if name.startswith("coco"):
        (tmp_path / "a photo.json").rename(tmp_path / "annotations.json")
    if name == "cvat":
        (tmp_path / "a photo.xml").rename(tmp_path / "annotations.xml")
    photos = read_masks(tmp_path, name)
    assert [p.hw for p in photos] == [(120, 160)]
    assert (decode_one(photos[0].masks[0].rle) == mask).all()


def test_urgent_work_goes_first_and_a_stop_cancels_what_waits() -> None:
    lane = Lane(10)
    done: list[Any] = []
    gate, entered = threading.Event(), threading.Event()

    def wait(payloads: list[Any]) -> list[Any]:
        entered.set()
        gate.wait(10)
        done.extend(payloads)
        return payloads

    def note(payloads: list[Any]) -> list[Any]:
        done.extend(payloads)
        return payloads

    lane.submit(wait, "first")
    entered.wait(10)
    bulk = lane.submit(note, "bulk", urgency=BULK)
    click = lane.submit(note, "click", urgency=CLICK)
    gate.set()
    assert bulk.result(10) == "bulk" and click.result(10) == "click"
    assert done == ["first", "click", "bulk"]

    gate.clear()
    entered.clear()
    running = lane.submit(wait, "running")
    entered.wait(10)
    waiting = lane.submit(note, "never")
    threading.Timer(0.1, gate.set).start()
    lane.stop()
    assert running.result(0) == "running" and waiting.cancelled()
    with pytest.raises(BusyError):
        lane.submit(note, "late")


def test_a_job_that_fails_fails_alone() -> None:
    lane = Lane(10)

    def fail(payloads: list[Any]) -> list[Any]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        lane.submit(fail).result(10)
    assert lane.submit(lambda payloads: payloads, 5).result(10) == 5
    lane.stop()


def test_without_the_built_app_the_page_says_how(lite_random: Sam, tmp_path: Any) -> None:
    async def run() -> None:
        async with served(lite_random, static=tmp_path) as client:
            page = await client.get("/")
            assert page.status_code == 200 and "make web" in page.text
            health = (await client.get("/api/health")).json()
            assert health["status"] == "ok"

    asyncio.run(run())


def test_a_stop_leaves_no_thread(lite_random: Sam, photo: np.ndarray) -> None:
    async def run() -> None:
        async with served(lite_random) as client:
            await upload(client, photo)

    asyncio.run(run())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(t.name.startswith("anymask") for t in threading.enumerate()):
        time.sleep(0.05)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("anymask")]
