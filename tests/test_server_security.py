"""Proves: what a hostile page or client may try is refused before it costs anything — no token, other origins and
hosts, names that are paths, files that are no photos, bombs, and requests without end."""

from __future__ import annotations

import asyncio
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from anymask.core.errors import OptionError
from anymask.model.sam import Sam
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.exports import safe_name
from anymask.server.settings import Settings
from anymask.server.studio import BrowserModel

Kind = dict[str, Any]


def ask(sam: Sam, method: str, url: str, settings: Settings | None = None, **options: Any) -> httpx.Response:
    """One request to a server in this process."""

    async def run() -> httpx.Response:
        static = options.pop("static", Path("/nowhere"))
        app = create_app(
            TorchSegmenter(sam), settings or Settings(), static=static, browser=options.pop("browser", None)
        )
        try:
            base = options.pop("base_url", "http://localhost:8765")
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
                return await client.request(method, url, **options)
        finally:
            await asyncio.to_thread(app.state.studio.stop)

    return asyncio.run(run())


def png_bomb(width: int, height: int) -> bytes:
    """A small file that says it is large, with valid checksums and pixels that compress to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo.jpg", bytes(20_000_000))
    return packed.getvalue()


def photo_bytes() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


# --- who asks ---------------------------------------------------------------------------------------------------

OPEN = Settings(host="0.0.0.0", token="right")
EVERY_ROUTE = ["/", "/api/model", "/api/samples", "/metrics", "/openapi.json", "/models/encoder.onnx", "/api/images/x"]


def test_a_server_for_other_machines_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(OptionError, match="token"):
            Settings(host=host)
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert Settings(host=host).token is None


@pytest.mark.parametrize("url", EVERY_ROUTE)
def test_without_the_token_nothing_is_answered(lite_random: Sam, url: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "anymask-token=wrong"}):
        answer = ask(lite_random, "GET", url, OPEN, headers=headers, base_url="http://192.168.1.5:8765")
        assert answer.status_code == 401, url
        assert "right" not in answer.text


def test_the_token_opens_by_header_by_cookie_and_by_address(lite_random: Sam) -> None:
    base = "http://192.168.1.5:8765"
    for headers in ({"authorization": "Bearer right"}, {"cookie": "anymask-token=right"}):
        assert ask(lite_random, "GET", "/api/model", OPEN, headers=headers, base_url=base).status_code == 200
    landed = ask(lite_random, "GET", "/?token=right&x=1", OPEN, base_url=base)
    assert landed.status_code == 303 and landed.headers["location"] == "/?x=1"
    cookie = landed.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert ask(lite_random, "GET", "/?token=wrong", OPEN, base_url=base).status_code == 401


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:9999", "http://localhost.evil.example"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_of_other_sites_are_refused(lite_random: Sam, origin: str, method: str) -> None:
    answer = ask(lite_random, method, "/api/images", headers={"origin": origin}, content=photo_bytes())
    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_own_page_may_and_a_form_of_another_may_not(lite_random: Sam) -> None:
    own = {"origin": "http://localhost:8765", "sec-fetch-site": "same-origin"}
    assert ask(lite_random, "POST", "/api/images", headers=own, content=photo_bytes()).status_code == 201
    form = {"sec-fetch-site": "cross-site"}
    assert ask(lite_random, "POST", "/api/images", headers=form, content=photo_bytes()).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "", "192.168.1.5", "["]
)
def test_a_name_that_resolves_here_is_not_enough(lite_random: Sam, host: str) -> None:
    assert ask(lite_random, "GET", "/api/model", headers={"host": host}).status_code == 403


def test_every_answer_isolates_the_page(lite_random: Sam) -> None:
    for url in ("/", "/api/health", "/nothing", "/api/model"):
        headers = ask(lite_random, "GET", url).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


# --- names that are paths ---------------------------------------------------------------------------------------

ESCAPES = [
    "../secret",
    "..%2fsecret",
    "%2e%2e/secret",
    "....//secret",
    "..%5csecret",
    "/etc/passwd",
    "%00",
    "a/../../secret",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_address_leads_out_of_the_app(lite_random: Sam, tmp_path: Path, escape: str) -> None:
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("the app")
    for name in ("secret", "secret.onnx", "secret.jpg"):
        (tmp_path / name).write_text("SECRET")
    browser = BrowserModel({"encoder": static / "index.html"})
    for start in ("/", "/assets/", "/models/", "/api/samples/"):
        for end in ("", ".onnx", ".jpg"):
            answer = ask(lite_random, "GET", start + escape + end, static=static, browser=browser)
            assert answer.status_code in (404, 405, 422) or answer.text == "the app"
            assert "SECRET" not in answer.text and "root:" not in answer.text


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "..\\..\\x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\0b",
        "con\n.jpg",
        "." * 200,
        "x" * 250,
        "~/.ssh/id",
        "é/ü.jpg",
    ],
)
def test_names_of_clients_become_plain_names(name: str) -> None:
    safe = safe_name(name)
    assert safe and "/" not in safe and "\\" not in safe and not safe.startswith(".") and len(safe) <= 100
    assert safe.isprintable()


def test_an_export_writes_nowhere_but_its_answer(lite_random: Sam, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body = {
        "format": "sa1b",
        "file_name": "../../../evil.json",
        "width": 4,
        "height": 4,
        "objects": [{"segmentation": {"size": [4, 4], "counts": [4, 8, 4]}, "label": "../x"}],
    }
    for name in ("sa1b", "yolo", "png", "labelme"):
        answer = ask(lite_random, "POST", "/api/export", json={**body, "format": name})
        assert answer.status_code == 200, answer.text
        if answer.headers["content-type"] == "application/zip":
            for member in zipfile.ZipFile(io.BytesIO(answer.content)).namelist():
                assert ".." not in member and not member.startswith("/")
    assert list(tmp_path.rglob("*")) == []
    assert not (tmp_path.parent / "evil.json").exists()


# --- files that are no photos -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<!doctype html><script>alert(1)</script>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) (r) file",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + b"\0" * 500,
        b"not a photo",
        b"",
        zip_bomb(),
    ],
    ids=["svg", "html", "eps", "gif", "png", "jpeg", "text", "empty", "zip"],
)
def test_what_is_no_photo_is_refused_with_a_reason(lite_random: Sam, content: bytes) -> None:
    answer = ask(lite_random, "POST", "/api/images", content=content)
    assert answer.status_code == 415, answer.text
    assert answer.headers["content-type"] == "application/json" and answer.json()["detail"]
    assert "<script" not in answer.text


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(lite_random: Sam, size: tuple[int, int], monkeypatch: Any) -> None:
    def decode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    answer = ask(lite_random, "POST", "/api/images", content=png_bomb(*size))
    assert answer.status_code == 415 and "limit" in answer.json()["detail"]


def test_too_many_bytes_are_refused_announced_or_not(lite_random: Sam) -> None:
    settings = Settings(upload_bytes=1000, json_bytes=1000)
    for url in ("/api/images", "/api/export"):
        assert ask(lite_random, "POST", url, settings, content=bytes(2000)).status_code == 413

        async def drip() -> Any:
            for _ in range(20):
                yield bytes(100)

        assert ask(lite_random, "POST", url, settings, content=drip()).status_code == 413


# --- requests without end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [[1, 1]] * 129, "labels": [1] * 129},
        {"points": [[1, 1]], "labels": [1, 1]},
        {"points": [[1, 1]], "labels": [7]},
        {"points": [[1]], "labels": [1]},
        {"points": [[1e300, 1]], "labels": [1]},
        {"points": [[500, 500]], "labels": [1]},
        {"box": [5, 5, 1, 1]},
        {"box": [1, 2, 3]},
        {},
        {"mask": {"size": [100_000, 100_000], "counts": [10_000_000_000]}},
        {"mask": {"size": [20, 30], "counts": "]]]]"}},
        {"mask": {"size": [20, 30], "counts": [-600, 1200]}},
        {"points": [[1, 1]], "labels": [1], "typo": 1},
    ],
)
def test_prompts_that_cannot_be_are_refused(lite_random: Sam, prompt: Kind) -> None:
    async def run() -> httpx.Response:
        app = create_app(TorchSegmenter(lite_random), static=Path("/nowhere"))
        try:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                photo = (await client.post("/api/images", content=photo_bytes())).json()["id"]
                return await client.post(f"/api/images/{photo}/predict", json={"prompts": [prompt]})
        finally:
            await asyncio.to_thread(app.state.studio.stop)

    answer = asyncio.run(run())
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], str)


def test_a_huge_list_of_prompts_is_refused(lite_random: Sam) -> None:
    url = f"/api/images/{'0' * 32}/predict"
    prompts = [{"points": [[1, 1]], "labels": [1]}]
    assert ask(lite_random, "POST", url, json={"prompts": prompts * 65}).status_code == 422
    assert ask(lite_random, "POST", url, json={"prompts": prompts * 300_000}).status_code == 413
    assert ask(lite_random, "POST", url, json={"prompts": []}).status_code == 422


def test_deeply_nested_and_broken_json_is_refused(lite_random: Sam) -> None:
    for content in (b"[" * 100_000, b'{"prompts":', b"\xff\xfe", b"NaN"):
        answer = ask(lite_random, "POST", "/api/export", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), answer.text


def test_drawing_too_much_is_refused(lite_random: Sam) -> None:
    mask = {"segmentation": {"size": [8000, 8000], "counts": [64_000_000]}}
    body = {"format": "png", "width": 8000, "height": 8000, "objects": [mask] * 100}
    assert ask(lite_random, "POST", "/api/export", json=body).status_code == 422
