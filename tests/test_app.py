"""Proves: the app works for a person, in a real Chromium against a real server — every gesture, undo of everything,
wrong files, a 100-megapixel photo, a server that dies, two tabs, exports that the package reads, keyboard, touch.

The scenarios are in web/e2e/scenarios.mjs. They need Node and Chromium (`make web-tools`); the app is built if it is
not there yet.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anymask.core.rle import decode_one
from anymask.predict.formats import read_masks

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or NODE is None or shutil.which("npm") is None,
    reason="needs Node 20.19 or later and Chromium, and one of them is not installed: `make web-tools`",
)


@pytest.fixture(scope="module")
def built() -> None:
    """The app, from the sources as they are."""
    bundle = ROOT / "src" / "anymask" / "server" / "static" / "index.html"
    sources = [p for folder in ("src", "public") for p in (WEB / folder).rglob("*") if p.is_file()]
    newest = max(p.stat().st_mtime for p in [*sources, WEB / "index.html", WEB / "vite.config.ts"])
    if not bundle.is_file() or bundle.stat().st_mtime < newest or not (WEB / "node_modules").is_dir():
        subprocess.run(["make", "web"], cwd=ROOT, check=True, timeout=600, capture_output=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model's copy for the browser is kept, for all servers of this file."""
    return tmp_path_factory.mktemp("home")


def png(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def disc(height: int = 360, width: int = 480, seed: int = 0) -> np.ndarray:
    """A bright disc in the middle of a dark textured ground."""
    rng = np.random.default_rng(seed)
    image = rng.integers(30, 60, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    image[(x - 0.56 * width) ** 2 + (y - 0.5 * height) ** 2 < (0.24 * height) ** 2] = (240, 190, 50)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos, and files that only look like photos."""
    png(tmp_path / "photo.png", disc())
    png(tmp_path / "other.png", disc(300, 420, 1))
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "drawing.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script></svg>"
    )
    (tmp_path / "page.html").write_text("<!doctype html><script>alert(1)</script>")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:60])
    (tmp_path / "bomb.png").write_bytes(flat_png(100_000, 100_000, rows=10))
    return tmp_path


def flat_png(width: int, height: int, rows: int | None = None) -> bytes:
    """A gray picture of any size from few bytes; with fewer rows than it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = b"\0" + b"\x50" * (width // 3) + b"\xd0" * (width // 3) + b"\x50" * (width - 2 * (width // 3))
    pixels = b"".join(packer.compress(row) for _ in range(rows or height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Server:
    """`anymask serve` as a process of its own, on a free port."""

    def __init__(self, home: Path, *options: str, code: str | None = None) -> None:
        command = (
            [sys.executable, "-c", code]
            if code
            else [sys.executable, "-m", "anymask", "serve", "--port", "0", *options]
        )
        env = {**os.environ, "ANYMASK_HOME": str(home), "ANYMASK_OFFLINE": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "open http://" in line, line
        self.url = line.split("open ")[1].split()[0].split("?")[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(built: None, home: Path) -> Iterator[Server]:
    running = Server(home)
    yield running
    running.stop()
    assert running.process.returncode in (0, -signal.SIGTERM)


def play(name: str, server: Server, folder: Path, **more: Any) -> str:
    """Run one scenario; what it printed."""
    given = {
        "url": server.url,
        "serverPid": server.process.pid,
        "chromium": CHROMIUM,
        "folder": str(folder),
        "photo": str(folder / "photo.png"),
        "other": str(folder / "other.png"),
        **more,
    }
    done = subprocess.run(
        [NODE or "node", "e2e/run.mjs", name, json.dumps(given)], cwd=WEB, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0 and done.stdout.rstrip().endswith("ok"), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name", ["click", "hover", "undo", "gestures", "drop", "wrongFiles", "twoTabs", "keyboard", "touch"]
)
def test_scenario(name: str, server: Server, folder: Path) -> None:
    play(name, server, folder)


def test_a_hundred_megapixels(server: Server, folder: Path) -> None:
    (folder / "huge.png").write_bytes(flat_png(12_500, 8_000))
    play("hundredMegapixels", server, folder)


@pytest.mark.parametrize("name", ["serverKilled", "stop"])
def test_the_page_goes_on_without_its_server(name: str, built: None, home: Path, folder: Path) -> None:
    own = Server(home)
    try:
        play(name, own, folder)
    finally:
        own.stop()


def test_exports_are_read_by_the_package(server: Server, folder: Path) -> None:
    printed = play("exports", server, folder)
    files = {
        line.split()[1].split("-")[0]: folder / line.split(" ", 1)[1]
        for line in printed.splitlines()
        if line.startswith("download ")
    }
    assert set(files) == {"coco", "coco_polygons", "yolo", "sa1b", "labelme", "mask", "cutout"}
    masks = folder / "masks"
    zipfile.ZipFile(files["mask"]).extractall(masks)
    drawn = [np.asarray(Image.open(p)) > 127 for p in sorted(masks.iterdir())]
    assert [m.shape for m in drawn] == [(360, 480)] * 2 and all(m.any() for m in drawn)
    assert sorted(p.name for p in masks.iterdir()) == ["photo.Object 2.png", "photo.disc.png"]
    by_label = {"disc": drawn[1], None: drawn[0]}
    for name in ("coco", "coco_polygons", "yolo", "sa1b", "labelme"):
        place = folder / f"read-{name}"
        place.mkdir()
        if files[name].suffix == ".zip":
            zipfile.ZipFile(files[name]).extractall(place)
        else:
            shutil.copy(files[name], place / ("annotations.json" if name.startswith("coco") else "photo.json"))
        (photo,) = read_masks(place, name)
        assert photo.hw == (360, 480) and photo.file_name == "photo.png"
        assert {m.label for m in photo.masks} == {"disc", None}
        for record in photo.masks:
            got, want = decode_one(record.rle), by_label[record.label]
            if name in ("coco", "sa1b"):
                assert (got == want).all()
            else:  # holes are filled
                assert (got & want).sum() == want.sum()
    cutouts = folder / "cutouts"
    zipfile.ZipFile(files["cutout"]).extractall(cutouts)
    cutout = np.asarray(Image.open(cutouts / "photo.disc.png"))
    rows, columns = np.nonzero(drawn[1].any(1))[0], np.nonzero(drawn[1].any(0))[0]
    assert cutout.shape[2] == 4 and cutout.shape[0] >= np.ptp(rows) + 1 and cutout.shape[1] >= np.ptp(columns) + 1
    assert cutout[..., 3].max() == 255 and cutout[..., 3].min() == 0
    assert ((cutout[..., 3] > 0) & (cutout[..., 3] < 255)).any(), "the edge is feathered"


def test_a_token_opens_the_page_and_leaves_the_address(built: None, home: Path, folder: Path) -> None:
    token = "a-token-of-some-length"
    own = Server(home, "--token", token)
    try:
        play("token", own, folder, token=token)
    finally:
        own.stop()


SERVER_ENCODES = """
import socket, uvicorn
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.browser_model import browser_model
from anymask.server.studio import BrowserModel
from anymask.weights.load import load_model
sam = load_model("lite")
whole = browser_model(sam, "lite")
part = BrowserModel({role: path for role, path in whole.files.items() if role != "encoder"}, whole.about)
app = create_app(TorchSegmenter(sam), preset="lite", browser=part)
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
print(f"open http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
"""


def test_models_too_large_for_a_page_encode_on_the_server(built: None, home: Path, folder: Path) -> None:
    own = Server(home, code=SERVER_ENCODES)
    try:
        play("serverEncodes", own, folder)
    finally:
        own.stop()
