"""The claim about the server: 50 clients click on 10 photos for a minute; nothing fails but with 503, p95 stays near
p50 and memory is flat.

    python benchmarks/server_load.py [--clients 50] [--seconds 60] [--model lite]

Starts `anymask serve` as a process, uploads ten photos, and lets each client click as soon as its last answer came. A
503 is counted, and its client comes back when the server said. Memory is the server's resident set, a sample a second;
the first quarter, while caches fill, does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--model", default="lite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = os.environ.get("ANYMASK_HOME", temporary)
        server = subprocess.Popen(
            [sys.executable, "-m", "anymask", "serve", "--port", "0", "--model", given.model],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ANYMASK_HOME": home},
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split("open ")[1].split()[0]
            print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            ok = asyncio.run(attack(url, server.pid, given))
        finally:
            server.terminate()
            server.wait(20)
    sys.exit(0 if ok else 1)


async def attack(url: str, pid: int, given: argparse.Namespace) -> bool:
    """Run all clients; print what came of it. Did every claim hold?"""
    limits = httpx.Limits(max_connections=given.clients, max_keepalive_connections=given.clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        ids = [await upload(client, seed) for seed in range(given.photos)]
        times_ms: list[float] = []
        statuses: Counter[int | str] = Counter()
        memory_mb: list[float] = []
        end = time.perf_counter() + given.seconds

        async def click(seed: int) -> None:
            rng = random.Random(seed)
            while time.perf_counter() < end:
                prompt = {"points": [[rng.uniform(0, 1023), rng.uniform(0, 767)]], "labels": [1]}
                place = f"/api/images/{rng.choice(ids)}/predict"
                began = time.perf_counter()
                try:
                    answer = await client.post(place, json={"prompts": [prompt]})
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                    continue
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    times_ms.append(1e3 * (time.perf_counter() - began))
                elif answer.status_code == 503:
                    await asyncio.sleep(float(answer.headers["retry-after"]))

        async def watch() -> None:
            while time.perf_counter() < end:
                memory_mb.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB)
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(click(seed) for seed in range(given.clients)))
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    steady = memory_mb[len(memory_mb) // 4 :]
    half = len(steady) // 2
    growth = float(np.mean(steady[half:]) - np.mean(steady[:half]))
    wrong = {status: n for status, n in statuses.items() if status not in (200, 503)}
    print(f"{given.clients} clients, {given.photos} photos, {given.seconds:.0f} s: {statuses[200]:,} answers, ", end="")
    print(f"{statuses[200] / given.seconds:.1f} a second; {statuses[503]} times 503; other: {wrong or 'none'}")
    print(f"p50 {p50:.0f} ms, p95 {p95:.0f} ms ({p95 / p50:.1f}× p50, at most 5×), p99 {p99:.0f} ms")
    print(f"memory {steady[0]:.0f} → {steady[-1]:.0f} MB; mean of the last part − that before: {growth:+.1f} MB")
    return not wrong and p95 <= 5 * p50 and growth < 0.03 * steady[0]


async def upload(client: httpx.AsyncClient, seed: int) -> str:
    """A photo of 1024×768 with something in it."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    encoded = BytesIO()
    small.resize((1024, 768), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    answer = await client.post("/api/images", content=encoded.getvalue())
    answer.raise_for_status()
    return str(answer.json()["id"])


if __name__ == "__main__":
    main()
