"""ViT-B, random weights, 1024×1024: ours beside `segment_anything` and `transformers`, the ratio from one run.

    python benchmarks/predict.py [--rounds 3]

Every implementation runs in a process of its own and they take turns; the least time of a job is compared, since a
shared machine only adds. `official + our allocator` shows how much of the
difference is memory handling alone. bf16 rows are printed only where the processor multiplies it natively.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import Peer

from anymask.model.precision import has_native_bf16

JOBS = {
    "encode": "encode one image",
    "decode64": "decode 64 one-point prompts (low-res)",
    "click": "one click, cached embedding, 1200×1800 masks",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "vit_b.pth"
        make_weights(weights)
        names = ["ours", "official", "official_our_malloc", "transformers"]
        if has_native_bf16(torch.device("cpu")):
            names += ["ours_bf16", "transformers_bf16"]
        peers = {name: Peer(name, weights) for name in names}
        for job, title in JOBS.items():
            compare(job, title, peers, rounds if job != "click" else 5 * rounds)
        for peer in peers.values():
            peer.close()


def make_weights(path: Path) -> None:
    """Official ViT-B with seeded random weights; zero tables get values, so that they count in the comparison."""
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]()
    for parameter in model.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.02)
    torch.save(model.state_dict(), path)


def compare(job: str, title: str, peers: dict[str, Peer], rounds: int) -> None:
    seconds: dict[str, list[float]] = {}
    last: dict[str, dict[str, Any]] = {}
    taking_part = {n: p for n, p in peers.items() if job == "encode" or not n.startswith("transformers")}
    for turn in range(rounds + 1):
        for name, peer in taking_part.items():
            last[name] = peer.run(job)
            if turn:  # the first is a warm-up
                seconds.setdefault(name, []).append(last[name]["seconds"])
    official = min(seconds["official"])
    reference = torch.load(last["official"]["output"], weights_only=True)
    print(f"\n{title}: least and median of {rounds}, speed by the least, peak memory so far, difference from official")
    for name, values in seconds.items():
        result = torch.load(last[name]["output"], weights_only=True)
        error = float((result - reference).norm() / reference.norm())
        print(
            f"  {name:20} {1e3 * min(values):8.1f} {1e3 * statistics.median(values):8.1f} ms"
            f"  {official / min(values):5.2f}×  {last[name]['peak_mib']:6.0f} MiB  {error:.1e}"
        )


if __name__ == "__main__":
    main()
