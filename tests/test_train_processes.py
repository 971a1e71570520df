"""Proves: two processes with a photo each train as one process with two photos does, under DDP and under FSDP2, and
their checkpoint is one that a single process goes on with; accumulated batches equal one large batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_data import write_discs
from train_worker import TINY_VIT, train

from anymask.core.errors import OptionError
from anymask.data.readers import read_shards
from anymask.model import presets
from anymask.train.config import Phase, TrainConfig
from anymask.train.feed import Feed

RECIPE = """
model: {model}
{extra}
loader_workers: 0
precision: fp32
device: cpu
curves: false
warmup_steps: 1
lr: 1e-4
encoder_lr: 1e-4
backbone_lr: 1e-4
flip: 0.5
phases:
  - {{until_step: 4, image_size: 64, cells: 4, photos: 2, masks: 2, num_clicks: 2, num_empty: 1, min_area_px: 1}}
"""


def start_two(recipe: Path, data: Path, out: Path, *overrides: str) -> None:
    """Two processes with a photo each, to step 2, under torchrun on the CPU with gloo."""
    worker = Path(__file__).parent / "train_worker.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    done = subprocess.run(
        [*command, str(recipe), str(data), str(out), "2", "phases.0.photos=1", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def journal(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("model", "sharding"), [("lite", "ddp"), ("vit_b", "fsdp")])
def test_two_processes_equal_one(
    model: str, sharding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(presets.VIT_SIZES, "vit_b", TINY_VIT)
    recipe, data = tmp_path / "r.yaml", write_discs(tmp_path / "data")
    extra = "affinity: 1.0\naffinity_masks: 3" if model == "lite" else "layer_decay: 0.8"
    recipe.write_text(RECIPE.format(model=model, extra=extra))
    one, two = tmp_path / "one", tmp_path / "two"
    start_two(recipe, data, two, f"sharding={sharding}")
    trainer = train(recipe, data, one, 2, [])
    a, b = (torch.load(out / "state.pt", weights_only=True) for out in (one, two))
    assert a["parameter_names"] == b["parameter_names"] and b["config"]["num_processes"] == 2
    moments = [
        {n: entry["exp_avg"] for i, n in enumerate(s["parameter_names"]) if (entry := s["optimizer"]["state"].get(i))}
        for s in (a, b)
    ]
    assert len(moments[0]) > 130
    for name, expected in moments[0].items():  # a mean of the two steps' gradients
        scale = expected.abs().max().item()
        torch.testing.assert_close(moments[1][name], expected, atol=2e-3 * scale + 1e-7, rtol=0, msg=name)
    for key in ("model", "average"):
        assert a[key].keys() == b[key].keys()
    for x, y in zip(journal(one), journal(two), strict=True):
        assert x["grad_norm"] == pytest.approx(y["grad_norm"], rel=1e-3)
        for round_x, round_y in zip(x["rounds"], y["rounds"], strict=True):
            assert round_x["loss"] == pytest.approx(round_y["loss"], rel=1e-4)
    # one process goes on where the two were, with both their photos
    trainer.run(stop_at=3)
    train(recipe, data, two, 3, ["phases.0.photos=2"])
    assert journal(two)[-1]["step"] == 3
    assert journal(two)[-1]["rounds"][0]["loss"] == pytest.approx(journal(one)[-1]["rounds"][0]["loss"], rel=1e-3)
    assert not torch.equal(a["model"]["mask_decoder.iou_token.weight"], trainer.sam.mask_decoder.iou_token.weight)


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    recipe, data = tmp_path / "r.yaml", write_discs(tmp_path / "data")
    recipe.write_text(RECIPE.format(model="lite", extra="affinity: 1.0\naffinity_masks: 3"))
    train(recipe, data, tmp_path / "whole", 2, [])
    train(recipe, data, tmp_path / "parts", 2, ["phases.0.photos=1", "accumulate=2"])
    for x, y in zip(journal(tmp_path / "whole"), journal(tmp_path / "parts"), strict=True):
        assert x["grad_norm"] == pytest.approx(y["grad_norm"], rel=1e-3)
        assert x["rounds"][-1]["loss"] == pytest.approx(y["rounds"][-1]["loss"], rel=1e-4)
        assert x["affinity"] == pytest.approx(y["affinity"], rel=1e-4)


def test_processes_share_the_samples_of_a_step(tmp_path: Path) -> None:
    photos = read_shards([write_discs(tmp_path)])
    phases = [Phase(until_step=3, image_size=32, photos=2, masks=1, min_area_px=1), Phase(5, 64, photos=1, masks=1)]
    config = TrainConfig(phases=phases, accumulate=2, loader_workers=0)

    def numbers(first: int, rank: int) -> list[list[list[int]]]:
        feed = Feed(photos, config, 512, rank, num_processes=2)
        return [[batch.numbers for batch in batches] for batches, _ in feed.steps(first, 5)]

    a, b = numbers(0, 0), numbers(0, 1)
    assert a[0] == [[0, 1], [4, 5]] and b[0] == [[2, 3], [6, 7]]
    assert a[3] == [[24], [26]] and b[3] == [[25], [27]]
    everything = sorted(n for steps in (a, b) for step in steps for batch in step for n in batch)
    assert everything == list(range(3 * 8 + 2 * 4))
    assert numbers(2, 1) == b[2:]  # a run that goes on sees what it would have seen


def test_sharding_one_process_is_refused(tmp_path: Path) -> None:
    recipe, data = tmp_path / "r.yaml", write_discs(tmp_path / "data")
    recipe.write_text(RECIPE.format(model="lite", extra="sharding: fsdp"))
    with pytest.raises(OptionError, match="torchrun"):
        train(recipe, data, tmp_path / "out", 1, [])
