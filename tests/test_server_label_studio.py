"""Proves: Label Studio's protocol is answered, with the predictor's masks; photos come from where they may, and nothing
else is fetched; a token is asked of Label Studio too."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from test_server import png, served

from anymask.core.errors import ImageError, OptionError
from anymask.core.rle import decode_one
from anymask.model.sam import Sam
from anymask.predict.formats.label_studio import setup_of
from anymask.predict.formats.label_studio_rle import unpack
from anymask.predict.predictor import SamPredictor
from anymask.server.label_studio import read_photo
from anymask.server.settings import Settings

SETUP = setup_of(["car", "tree & co"])
WHERE = {"original_width": 160, "original_height": 120, "image_rotation": 0, "to_name": "image"}
CLICK = {
    "type": "keypointlabels",
    "from_name": "point",
    "is_positive": 1,
    "value": {"x": 56.25, "y": 50.0, "width": 0.3, "keypointlabels": ["car"]},
    **WHERE,
}
BOX = {
    "type": "rectanglelabels",
    "from_name": "box",
    "value": {"x": 30.0, "y": 20.0, "width": 50.0, "height": 60.0, "rectanglelabels": ["tree & co"]},
    **WHERE,
}


def uri(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def question(address: str, *drawn: dict, setup: str = SETUP) -> dict[str, Any]:
    return {
        "tasks": [{"id": 1, "data": {"image": address}}],
        "model_version": None,
        "project": "7.1700000000",
        "label_config": setup,
        "params": {"login": None, "password": None, "context": {"result": list(drawn)} if drawn else None},
    }


def ask(sam: Sam, body: dict | None, path: str = "/predict", settings: Settings | None = None, **more: Any) -> Any:
    async def run() -> httpx.Response:
        async with served(sam, settings) as client:
            method = "GET" if body is None else "POST"
            return await client.request(method, f"/label-studio{path}", json=body, **more)

    return asyncio.run(run())


def test_a_click_and_a_box_give_the_predictors_mask(lite_random: Sam, photo: np.ndarray) -> None:
    predictor = SamPredictor(lite_random)
    predictor.set_image(photo)
    for drawn, prompt, label in (
        (CLICK, {"point_coords": np.array([[90.0, 60.0]]), "point_labels": np.array([1])}, "car"),
        (BOX, {"box": np.array([48.0, 24.0, 128.0, 96.0])}, "tree & co"),
    ):
        answer = ask(lite_random, question(uri(photo), drawn))
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["results"]
        (result,) = prediction["result"]
        assert (result["type"], result["from_name"], result["to_name"]) == ("brushlabels", "tag", "image")
        assert result["value"]["brushlabels"] == [label] and result["value"]["format"] == "rle"
        masks, scores, _ = predictor.predict(**prompt, multimask_output=True)
        expected = masks[int(scores.argmax())]
        found = decode_one(unpack(result["value"]["rle"], (120, 160)))
        assert np.array_equal(found, expected)
        assert prediction["score"] == pytest.approx(float(scores.max()), abs=1e-4)
        assert prediction["model_version"].startswith("anymask-lite")


def test_the_other_routes_and_tasks_without_clicks(lite_random: Sam, photo: np.ndarray) -> None:
    assert ask(lite_random, None, "/health").json()["status"] == "UP"
    assert ask(lite_random, None, "/").json()["status"] == "UP"
    body = {"project": "7.17", "schema": SETUP, "hostname": "http://localhost:8080", "access_token": "x"}
    assert ask(lite_random, body, "/setup").json()["model_version"].startswith("anymask-lite")
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 7}}
    assert ask(lite_random, event, "/webhook").json()["status"] == "ok"
    assert ask(lite_random, question(uri(photo))).json()["results"] == []


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"label_config": "<View/>"}, 422, "needs <Image"),
        ({"label_config": "<View>"}, 422, "cannot be read as XML"),
        ({"label_config": "<!DOCTYPE x><View/>"}, 422, "declares no types"),
        ({"tasks": [{"data": {"photo": "x"}}]}, 422, "not as Label Studio sends it"),
        ({"tasks": [{"data": {"image": "data:image/png;base64,AAAA"}}]}, 415, "not an image"),
        ({"tasks": [{"data": {"image": "data:image/png;base64,###"}}]}, 415, "damaged"),
        ({"tasks": [{"data": {"image": "file:///etc/passwd"}}]}, 415, "--label-studio"),
        ({"tasks": [{"data": {"image": "http://169.254.169.254/latest"}}]}, 415, "--label-studio"),
        ({"params": {"context": {"result": [{"type": "keypointlabels"}]}}}, 422, "not as Label Studio sends it"),
        ({"params": {"context": {"result": [{**CLICK, "value": {"x": 1e300, "y": 1}}]}}}, 422, "not as Label Studio"),
        ({"params": {"context": {"result": [{"type": "choices", "value": {}}]}}}, 422, "a prompt needs points"),
        ({"params": {"context": 3}}, 422, "not as Label Studio sends it"),
    ],
)
def test_bad_requests_are_answered_in_words(
    change: dict, status: int, message: str, lite_random: Sam, photo: np.ndarray
) -> None:
    answer = ask(lite_random, {**question(uri(photo), CLICK), **change})
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


def test_a_token_is_asked_for_also_as_basic_password(lite_random: Sam) -> None:
    settings = Settings(token="a-long-secret-token")
    assert ask(lite_random, {}, "/setup", settings).status_code == 401
    assert ask(lite_random, {}, "/setup", settings, auth=("anybody", "wrong-token-of-length")).status_code == 401
    assert ask(lite_random, {}, "/setup", settings, auth=("anybody", "a-long-secret-token")).status_code == 200
    broken = {"authorization": "Basic ###"}
    assert ask(lite_random, {}, "/setup", settings, headers=broken).status_code == 401
    assert ask(lite_random, {}, "/setup", headers={"origin": "http://evil.example"}).status_code == 403


@contextmanager
def a_label_studio(content: bytes) -> Iterator[str]:
    """A server on this machine with one photo, that asks for a token, and one address that leads elsewhere."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/data/upload/1/a.png" and self.headers["authorization"] == "Token key":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)
            elif self.path == "/away":
                self.send_response(302)
                self.send_header("location", "/data/upload/1/a.png")
                self.end_headers()
            else:
                self.send_error(401)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_photos_are_fetched_from_label_studio_and_nowhere_else(photo: np.ndarray) -> None:
    content = png(photo)
    with a_label_studio(content) as home:
        settings = Settings(label_studio_url=home, label_studio_key="key")
        assert read_photo("/data/upload/1/a.png", settings) == content
        assert read_photo(f"{home}/data/upload/1/a.png", settings) == content
        port = home.rpartition(":")[2]
        others = (
            "http://localhost:" + port,
            "https://127.0.0.1:" + port,
            "http://127.0.0.1",
            "//evil.example",
            "file:",
        )
        for other in others:
            with pytest.raises(ImageError, match="does not lie on"):
                read_photo(f"{other}/data/upload/1/a.png", settings)
        for tricky in (f"{home}@evil.example/a.png", f"http://evil.example/?{home}/a.png"):
            with pytest.raises(ImageError, match="does not lie on"):
                read_photo(tricky, settings)
        with pytest.raises(ImageError, match=r"\(302\)"):
            read_photo("/away", settings)
        with pytest.raises(ImageError, match="LABEL_STUDIO_API_KEY"):
            read_photo("/data/upload/1/a.png", Settings(label_studio_url=home))
        with pytest.raises(ImageError, match="limit of 100 bytes"):
            read_photo(
                "/data/upload/1/a.png", Settings(label_studio_url=home, label_studio_key="key", upload_bytes=100)
            )
    with pytest.raises(ImageError, match="could not be read"):
        read_photo("/data/upload/1/a.png", settings)
    with pytest.raises(OptionError, match="http://"):
        Settings(label_studio_url="file:///etc")
