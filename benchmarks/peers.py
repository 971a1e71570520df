"""One process per implementation, asked in turn, so that each runs as its users run it and drift hits all alike.

    python benchmarks/peers.py NAME WEIGHTS    (started by the benchmarks)

NAME: ours, ours_bf16, ours_system_malloc, official, official_our_malloc, transformers, transformers_bf16.

Protocol: a job name per line in, one JSON line out with seconds and peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE, PHOTO_HW = 1024, (1200, 1800)


class Peer:
    """A child process that does jobs on request."""

    def __init__(self, name: str, weights: Path) -> None:
        self.name = name
        env = {**os.environ}
        if name == "ours_system_malloc":
            env["ANYMASK_ALLOCATOR"] = "system"
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def run(self, job: str) -> dict[str, Any]:
        """Do one job; its seconds, output file and peak memory so far."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died at {job}")
        return json.loads(line)

    def close(self) -> None:
        """End the child."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def make_jobs(name: str, weights: Path) -> dict[str, Callable[[], Any]]:
    """Job name to a function whose result has the low-resolution logits, if any."""
    import numpy as np
    import torch

    state = torch.load(weights, weights_only=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    points = torch.rand(64, 1, 2, generator=generator) * SIDE
    labels = torch.ones(64, 1)
    photo = np.random.default_rng(0).integers(0, 255, (*PHOTO_HW, 3), dtype=np.uint8)
    click = {"point_coords": np.array([[500, 375]]), "point_labels": np.array([1])}
    if name.startswith("ours"):
        from anymask import SamPredictor, build_sam

        sam = build_sam("vit_b")
        sam.load_state_dict(state)
        if name == "ours_bf16":
            sam.set_precision(torch.bfloat16)
        predictor = SamPredictor(sam)

        def decode() -> Any:
            from anymask.core.geometry import Frame
            from anymask.core.types import Embedding, PromptBatch

            embedding = Embedding(features(), Frame.of((SIDE, SIDE), SIDE))
            return predictor.segmenter.decode(embedding, PromptBatch(points, labels), True).low_res
    else:
        if name == "official_our_malloc":
            from anymask.core.allocator import keep_freed_memory

            keep_freed_memory()
        from segment_anything import SamPredictor as OfficialPredictor
        from segment_anything import sam_model_registry

        sam = sam_model_registry["vit_b"]().eval()
        sam.load_state_dict(state)
        predictor = OfficialPredictor(sam)

        def decode() -> Any:
            sparse, dense = sam.prompt_encoder((points, labels), None, None)
            pe = sam.prompt_encoder.get_dense_pe()
            return sam.mask_decoder(features(), pe, sparse, dense, True)[0]

    kept: dict[str, Any] = {}

    def features() -> Any:
        if "features" not in kept:
            kept["features"] = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
        return kept["features"]

    def set_photo() -> None:
        """An image is 'set' without the encoder's time: prompts are what is measured."""
        small = torch.zeros(1, 3, 683, SIDE)
        predictor.set_torch_image(small, PHOTO_HW)

    def click_once() -> Any:
        if not predictor.is_image_set:
            set_photo()
        return torch.from_numpy(predictor.predict(**click, multimask_output=True)[2])

    del photo
    return {
        "encode": lambda: sam.image_encoder(x).float(),
        "decode64": decode,
        "click": click_once,
    }


def transformers_jobs(name: str, weights: Path) -> dict[str, Callable[[], Any]]:
    """`transformers` SamModel with the same weights."""
    import torch
    from transformers import SamConfig, SamModel, SamVisionConfig

    from anymask.weights.remap import to_huggingface

    model = SamModel(SamConfig(vision_config=SamVisionConfig(global_attn_indexes=[2, 5, 8, 11]))).eval()
    model.load_state_dict(to_huggingface(torch.load(weights, weights_only=True)), strict=False)
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if name == "transformers_bf16":
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    return {"encode": lambda: model.vision_encoder(x)[0].float()}


def serve(name: str, weights: Path) -> None:
    """Answer job names on standard input."""
    import torch

    jobs = transformers_jobs(name, weights) if name.startswith("transformers") else make_jobs(name, weights)
    for line in sys.stdin:
        job = line.strip()
        with torch.no_grad():
            started = time.perf_counter()
            result = jobs[job]()
            seconds = time.perf_counter() - started
        out = weights.parent / f"{name}.{job}.pt"
        torch.save(result, out)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak, "output": str(out)}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
