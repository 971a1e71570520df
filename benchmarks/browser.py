"""The claims about the browser, in headless Chromium on this machine: ours and the official decoder graph, one page.

    python benchmarks/browser.py [--rounds 15] [--threads 2] [--model lite]

Prints medians in milliseconds: prompt → first outline drawn (half the cells a side) and → whole mask drawn in the app;
then, in one bare page with the same ONNX Runtime, the decoder as `segment_anything` exports it (upsampling to a
1024-pixel photo inside) and ours with the same weights, in turn; encoding of a 1024-pixel photo; first load → first
mask, and the same after a reload; and in Annotate, from the key that says done to the next photo, ready to be clicked.
Then each row of the claims with its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
QUEUE = 6  # photos that are annotated
SERVE = """
import socket, sys, uvicorn
from pathlib import Path
from anymask.engine.photos import add_photos
from anymask.engine.store import make_store
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.browser_model import browser_model
from anymask.server.project import Project
from anymask.server.studio import BrowserModel
from anymask.weights.load import load_model
from official_decoder import export_official
place = Path(sys.argv[1])
sam = load_model("lite")
whole = browser_model(sam, "lite")
official = place / f"official-{whole.stamp}.onnx"
if not official.is_file():
    export_official(sam, official)
files = BrowserModel({**whole.files, "official": official}, whole.about)
store = make_store(Path(sys.argv[2]) / "masks.db")
add_photos(store, store.project_id(), [Path(sys.argv[2]) / "queue"])
project = Project(store, store.project_id(), "default")
app = create_app(TorchSegmenter(sam), browser=files, project=project)
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--home", type=Path, default=None, help="keep exported graphs here between runs")
    given = parser.parse_args()
    chromium, node = shutil.which("chromium"), shutil.which("node")
    if chromium is None or node is None:
        sys.exit("this benchmark needs Chromium and Node: make web-tools")
    with tempfile.TemporaryDirectory() as temporary:
        place = given.home or Path(temporary)
        photo = Path(temporary) / "photo.jpg"
        Image.fromarray(sample()).resize((1024, 768)).save(photo, quality=92)
        (Path(temporary) / "queue").mkdir()
        for i in range(QUEUE):
            turned = np.roll(sample(), 40 * i, axis=1)
            Image.fromarray(turned).resize((1024, 768)).save(Path(temporary) / "queue" / f"{i}.jpg", quality=92)
        path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "ANYMASK_HOME": str(place), "PYTHONPATH": path}
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(place), temporary], stdout=subprocess.PIPE, text=True, env=env
        )
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/"
            options = {
                "url": url,
                "photo": str(photo),
                "rounds": given.rounds,
                "threads": given.threads,
                "queue": QUEUE,
                "chromium": chromium,
            }
            print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            done = subprocess.run(
                [node, "e2e/bench.mjs", json.dumps(options)],
                cwd=ROOT / "web",
                capture_output=True,
                text=True,
                timeout=900,
            )
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
        finally:
            server.terminate()
            server.wait(20)
    found = json.loads(done.stdout.splitlines()[-1])
    for name, value in found.items():
        print(f"{name:<52} {value:>9.1f}" if isinstance(value, float | int) else f"{name:<52} {value}")
    rows = [
        ("decoder, ours / official", found["ours, decode ms"] / found["official, decode ms"], 0.6),
        ("prompt → first outline drawn, ms", found["app, prompt to first outline drawn, ms"], 30),
        ("lite encode, 1024 px photo, ms", found["app, encode 1024 px photo, ms"], 700),
        ("first load → first mask, ms", found["first load to first mask, ms (cold)"], 4000),
    ]
    print()
    for name, value, most in rows:
        print(f"{name:<52} {value:>9.2f}   at most {most:g}: {'yes' if value <= most else 'NO'}")


def sample() -> np.ndarray:
    from skimage import data

    return np.asarray(data.coffee())


if __name__ == "__main__":
    main()
