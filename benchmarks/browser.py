"""The claims about the browser, in headless Chromium on this machine: ours and the official decoder graph, one page.

    python benchmarks/browser.py [--rounds 15] [--threads 2] [--model lite]

Prints medians in milliseconds: prompt → mask drawn in the app; then, in one bare page with the same ONNX Runtime, the
official decoder graph (upsampling to a 1024-pixel photo inside) and ours on the same embedding, in turn; encoding of a
1024-pixel photo; and first load → first mask.
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
SERVE = """
import socket, sys, uvicorn
from pathlib import Path
from anymask.export.onnx import DecoderOptions, decoder_graph
from anymask.model.presets import build_sam
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.browser_model import browser_model
from anymask.server.studio import BrowserModel
from anymask.weights.load import load_model
import onnx
place = Path(sys.argv[1])
sam = load_model("lite")
whole = browser_model(sam, "lite")
official = place / "official.onnx"
if not official.is_file():
    onnx.save(decoder_graph(sam, DecoderOptions()), official)
files = BrowserModel({**whole.files, "official": official}, whole.about)
app = create_app(TorchSegmenter(sam), preset="lite", browser=files)
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
        env = {**os.environ, "ANYMASK_HOME": str(place)}
        server = subprocess.Popen([sys.executable, "-c", SERVE, str(place)], stdout=subprocess.PIPE, text=True, env=env)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/"
            options = {
                "url": url,
                "photo": str(photo),
                "rounds": given.rounds,
                "threads": given.threads,
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
    print(
        f"{'ours / official, decoder graph alone':<52} {found['ours, decode ms'] / found['official, decode ms']:>9.2f}"
    )


def sample() -> np.ndarray:
    from skimage import data

    return np.asarray(data.coffee())


if __name__ == "__main__":
    main()
