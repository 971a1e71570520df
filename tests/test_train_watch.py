"""Proves: a run shows its curves, clicks and masks in TensorBoard files, and a dry run measures without saving."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from train_data import write_discs
from train_worker import train

from anymask.train.clicks import Prompts
from anymask.train.curves import MASK, TRUTH, draw_rounds
from anymask.train.rounds import Shown

RECIPE = """
model: lite
loader_workers: 0
precision: fp32
device: cpu
pictures_every: 2
phases:
  - {until_step: 2, image_size: 64, cells: 4, photos: 2, masks: 2, num_clicks: 1, num_empty: 1, min_area_px: 1}
  - {until_step: 6, image_size: 64, photos: 1, masks: 1, num_clicks: 1, fewer_rounds: true, min_area_px: 1}
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_curves_and_pictures_are_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    train(recipe, write_discs(tmp_path / "data"), tmp_path / "run", 2, [])
    events = EventAccumulator(str(tmp_path / "run" / "curves"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    for i in (1, 2, 3):
        assert {f"loss/round {i}", f"best_iou/round {i}", f"chosen_iou/round {i}"} <= scalars
    clicked = {tag for tag in scalars if tag.startswith("positive_clicks/")}
    assert clicked and clicked <= {"positive_clicks/round 2", "positive_clicks/round 3"}
    for tag in clicked:
        assert all(0 <= event.value <= 1 for event in events.Scalars(tag))
    assert {"step/lr", "step/grad_norm", "step/wait_s", "step/step_s"} <= scalars
    assert [event.step for event in events.Scalars("loss/round 1")] == [1, 2]
    (picture,) = events.Images("masks")
    assert (picture.step, picture.height, picture.width) == (2, 256, 4 * 256)


def test_rounds_are_drawn_where_they_are() -> None:
    truth = torch.zeros(32, 32, dtype=torch.bool)
    truth[8:24, 8:24] = True
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:, :16] = True
    prompts = Prompts(torch.tensor([[[200.0, 40.0], [0.0, 0.0]]]), torch.tensor([[1, -1]]))
    picture = draw_rounds(np.full((256, 256, 3), 100, np.uint8), Shown(truth, [mask], prompts))
    assert picture.shape == (256, 512, 3)
    before, after = picture[:, :256], picture[:, 256:]
    assert tuple(before[64, 128]) == TRUTH and tuple(before[20, 20]) == (100, 100, 100)
    assert tuple(after[128, 20]) == tuple(50 + c // 2 for c in MASK) and tuple(after[128, 220]) == (100, 100, 100)
    assert tuple(after[40, 200]) == (60, 220, 60) and tuple(before[40, 200]) == (100, 100, 100)


def test_a_dry_run_measures_and_saves_nothing(tmp_path: Path) -> None:
    recipe, data = tmp_path / "r.yaml", write_discs(tmp_path / "data")
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "anymask", "train", "--config", str(recipe), "--data", str(data)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--dry-run", "--set", "train.lr=1e-4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    parameters = re.search(r"parameters: ([\d,]+), of which ([\d,]+) are trained", done.stdout)
    assert parameters and parameters[1] == parameters[2]
    memory = re.search(r"([\d.]+) GiB", done.stdout)
    assert memory and 0.1 < float(memory[1]) < 20
    assert re.search(r"phase 1: +steps 0 … 2: [\d.]+ s a step of 2 photos", done.stdout)
    assert re.search(r"phase 2: +steps 2 … 6: [\d.]+ s a step of 1 photos", done.stdout)
    assert not (tmp_path / "run").exists()
