"""Proves: the app works for a person, in a real Chromium against a real server — every gesture, undo of everything,
wrong files, a 100-megapixel photo, a server that dies, two tabs, exports that the package reads, keyboard, touch.

The scenarios are in web/e2e/scenarios.mjs. They need Node and Chromium (`make web-tools`); the app is built if it is
not there yet.
"""

from __future__ import annotations

import shutil
import signal
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_tools import Server, build_app, disc, needs_browser, play, png
from PIL import Image

from anymask.core.rle import decode_one
from anymask.predict.formats import read_masks

pytestmark = needs_browser


@pytest.fixture(scope="module")
def built() -> None:
    build_app()


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


@pytest.fixture(scope="module")
def server(built: None, browser_home: Path) -> Iterator[Server]:
    running = Server(browser_home)
    yield running
    running.stop()
    assert running.process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    "name", ["click", "hover", "undo", "gestures", "drop", "wrongFiles", "twoTabs", "keyboard", "touch"]
)
def test_scenario(name: str, server: Server, folder: Path) -> None:
    play(name, server, folder)


def test_a_closer_look_sharpens_small_things(server: Server, folder: Path) -> None:
    image = disc(900, 1400)
    y, x = np.mgrid[:900, :1400]
    image[(x - 300) ** 2 + (y - 620) ** 2 < 17**2] = (220, 60, 60)
    png(folder / "small.png", image)
    box = [283 / 1400, 603 / 900, 317 / 1400, 637 / 900]
    play("closer", server, folder, small=str(folder / "small.png"), truth={"box": box, "disc": [300, 620, 17]})


def test_a_hundred_megapixels(server: Server, folder: Path) -> None:
    (folder / "huge.png").write_bytes(flat_png(12_500, 8_000))
    play("hundredMegapixels", server, folder)


@pytest.mark.parametrize("name", ["serverKilled", "stop"])
def test_the_page_goes_on_without_its_server(name: str, built: None, browser_home: Path, folder: Path) -> None:
    own = Server(browser_home)
    try:
        play(name, own, folder)
    finally:
        own.stop()


TEXT_FORMATS = ("coco", "coco_polygons", "yolo", "sa1b", "labelme", "cvat", "label_studio")


def test_exports_are_read_by_the_package(server: Server, folder: Path) -> None:
    printed = play("exports", server, folder)
    files = {
        line.split()[1].split("-")[0]: folder / line.split(" ", 1)[1]
        for line in printed.splitlines()
        if line.startswith("download ")
    }
    assert set(files) == {*TEXT_FORMATS, "mask", "cutout"}
    masks = folder / "masks"
    zipfile.ZipFile(files["mask"]).extractall(masks)
    drawn = [np.asarray(Image.open(p)) > 127 for p in sorted(masks.iterdir())]
    assert [m.shape for m in drawn] == [(360, 480)] * 2 and all(m.any() for m in drawn)
    assert sorted(p.name for p in masks.iterdir()) == ["photo.Object 2.png", "photo.disc.png"]
    by_label = {"disc": drawn[1], None: drawn[0]}
    for name in TEXT_FORMATS:
        place = folder / f"read-{name}"
        place.mkdir()
        if files[name].suffix == ".zip":
            zipfile.ZipFile(files[name]).extractall(place)
        else:
            known = {"coco": "annotations.json", "coco_polygons": "annotations.json", "cvat": "annotations.xml"}
            shutil.copy(files[name], place / known.get(name, "photo.json"))
        (photo,) = read_masks(place, name)
        assert photo.hw == (360, 480) and photo.file_name == "photo.png"
        assert {m.label for m in photo.masks} == {"disc", None}
        for record in photo.masks:
            got, want = decode_one(record.rle), by_label[record.label]
            if name in ("coco", "sa1b", "cvat", "label_studio"):
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


def test_a_token_opens_the_page_and_leaves_the_address(built: None, browser_home: Path, folder: Path) -> None:
    token = "a-token-of-some-length"
    own = Server(browser_home, "--token", token)
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
app = create_app(TorchSegmenter(sam), browser=part)
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
print(f"open http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
"""


def test_models_too_large_for_a_page_encode_on_the_server(built: None, browser_home: Path, folder: Path) -> None:
    own = Server(browser_home, code=SERVER_ENCODES)
    try:
        play("serverEncodes", own, folder)
    finally:
        own.stop()
