"""What tests of the app share: the built app, servers as processes, scenarios in a real Chromium."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = shutil.which("node")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or NODE is None or shutil.which("npm") is None,
    reason="needs Node 20.19 or later and Chromium, and one of them is not installed: `make web-tools`",
)


def build_app() -> None:
    """The app, from the sources as they are; by one process at a time."""
    with (WEB / ".building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build_if_needed()


def _build_if_needed() -> None:
    bundle = ROOT / "src" / "anymask" / "server" / "static" / "index.html"
    sources = [p for folder in ("src", "public") for p in (WEB / folder).rglob("*") if p.is_file()]
    newest = max(p.stat().st_mtime for p in [*sources, WEB / "index.html", WEB / "vite.config.ts"])
    if not bundle.is_file() or bundle.stat().st_mtime < newest or not (WEB / "node_modules").is_dir():
        subprocess.run(["make", "web"], cwd=ROOT, check=True, timeout=600, capture_output=True)


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


class Server:
    """`anymask serve` as a process of its own, on a free port."""

    def __init__(self, home: Path, *options: str, code: str | None = None) -> None:
        command = (
            [sys.executable, "-c", code]
            if code
            else [sys.executable, "-m", "anymask", "serve", *([] if "--port" in options else ["--port", "0"]), *options]
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


def play(name: str, server: Server, folder: Path, **more: Any) -> str:
    """Run one scenario; what it printed."""
    given = {
        "url": server.url,
        "serverPid": server.process.pid,
        "chromium": CHROMIUM,
        "folder": str(folder),
        **{name: str(folder / f"{name}.png") for name in ("photo", "other") if (folder / f"{name}.png").is_file()},
        **more,
    }
    done = subprocess.run(
        [NODE or "node", "e2e/run.mjs", name, json.dumps(given)], cwd=WEB, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0 and done.stdout.rstrip().endswith("ok"), done.stdout + done.stderr
    return done.stdout
