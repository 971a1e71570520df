"""Proves: a phrase brings the masks that fit it to the front, and where its models are missing the server says so."""

from __future__ import annotations

import asyncio
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image
from skimage import data

from anymask.core.rle import encode_one
from anymask.model.sam import Sam
from anymask.predict.segmenter import TorchSegmenter
from anymask.server import work
from anymask.server.app import create_app
from anymask.server.settings import Settings
from anymask.server.words import Words, to_picture


@pytest.fixture(scope="module")
def words() -> Words:
    found = Words()
    assert found.is_there, "the text extra is one of those for development"
    return found


def test_the_mask_that_fits_comes_first(words: Words) -> None:
    parts = [np.asarray(Image.fromarray(photo()).resize((300, 300))) for photo in (data.cat, data.coffee)]
    photo = np.concatenate(parts, axis=1)
    left = np.zeros(photo.shape[:2], bool)
    left[40:260, 40:260] = True
    masks = [{"segmentation": encode_one(mask)} for mask in (left, left[:, ::-1])]
    seen: list[tuple[int, int]] = []
    for phrase, first in (("a cat", 0), ("a cup of coffee", 1)):
        found = work.by_words(words, to_picture(photo), masks, phrase, lambda *done: seen.append(done) or False)  # type: ignore[func-returns-value]
        assert [mask["segmentation"] for mask in found] == [masks[i]["segmentation"] for i in (first, 1 - first)]
        assert 1 >= found[0]["text_similarity"] > found[1]["text_similarity"] >= -1
    assert seen == [(2, 2)] * 2


@pytest.mark.parametrize("is_there", [True, False])
def test_over_http(lite_random: Sam, photo: np.ndarray, words: Words, is_there: bool) -> None:
    async def run() -> None:
        app = create_app(TorchSegmenter(lite_random), Settings())
        app.state.studio.words = words if is_there else type("Missing", (Words,), {"is_there": False})()
        encoded = io.BytesIO()
        Image.fromarray(photo).save(encoded, "PNG")
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=120
        ) as client:
            assert (await client.get("/api/model")).json()["words"] is is_there
            photo_id = (await client.post("/api/images", content=encoded.getvalue())).json()["id"]
            body = {"points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, "text": "a ball"}
            answer = await client.post(f"/api/images/{photo_id}/everything", json=body)
            if is_there:
                last = json.loads(answer.text.splitlines()[-1])
                found = [mask["text_similarity"] for mask in last["masks"]]
                assert found and found == sorted(found, reverse=True)
                empty = await client.post(f"/api/images/{photo_id}/everything", json={**body, "text": "  "})
                assert empty.status_code == 422
            said = {"prompts": [{"points": [[50, 40]], "labels": [1], "text": "a ball"}, {"text": "a ball"}]}
            predicted = await client.post(f"/api/images/{photo_id}/predict", json=said)
            if is_there:
                ranked, whole = (o["candidates"] for o in predicted.json()["objects"])
                found = [mask["text_similarity"] for mask in ranked]
                assert len(found) == 3 and found == sorted(found, reverse=True)
                assert len(whole) <= 3 and all(-1 <= mask["text_similarity"] <= 1 for mask in whole)
            else:
                assert predicted.status_code == 501
                assert answer.status_code == 501 and "anymask[text]" in answer.json()["detail"]
        await asyncio.to_thread(app.state.studio.stop)

    asyncio.run(run())
