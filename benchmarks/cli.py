"""From shell prompt to files: `anymask predict` with lite on a sample photo, whole process, several runs.

    python benchmarks/cli.py [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    wall, encode, decode = [], [], []
    for turn in range(runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "anymask", "predict", "sample:cat", "--point", "200,150", "-o", folder]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:  # the first warms the file cache
                wall.append(time.perf_counter() - started)
                seconds = json.loads((Path(folder) / "cat.json").read_text())["seconds"]
                encode.append(seconds["encode"])
                decode.append(seconds["decode"])
    print(f"anymask predict, lite, shell to files, median of {runs}: {statistics.median(wall):.2f} s")
    print(f"  encode {1e3 * statistics.median(encode):.0f} ms, masks {1e3 * statistics.median(decode):.0f} ms")


if __name__ == "__main__":
    main()
