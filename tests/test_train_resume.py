"""Proves: a run goes on exactly or says why not. Changed configurations, full disks and NaN losses are named, and the
last good checkpoint stays whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from train_data import write_discs
from train_worker import train

from anymask.cli.train import train as train_command
from anymask.core.errors import CheckpointError, ImageError, InputError, OptionError
from anymask.data.readers import read_shards
from anymask.data.shards import write_shard
from anymask.train.changes import FIXED, FREE, check_unchanged, stored_form
from anymask.train.config import Phase, TrainConfig, load_config
from anymask.train.loop import Trainer, TrainingError
from anymask.train.photo_rounds import check_finite
from anymask.weights.lock import locked

RECIPE = """
model: lite
loader_workers: 0
precision: fp32
device: cpu
curves: false
save_every: 1
phases:
  - {until_step: 4, image_size: 64, cells: 4, photos: 1, masks: 2, num_clicks: 1, num_empty: 0, min_area_px: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "data")


def test_a_changed_configuration_is_refused_with_all_that_differs(recipe: Path, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path / "run", 1, [])
    before = (tmp_path / "run" / "state.pt").read_bytes()
    with pytest.raises(OptionError) as error:
        train(recipe, data, tmp_path / "run", 2, ["losses.focal=3", "phases.0.masks=3", "seed=5", "lr=1e-5"])
    message = str(error.value)
    assert "losses.focal: 20.0 in the run, 3.0 now" in message
    assert "phases.0.masks: 2 in the run, 3 now" in message and "seed: 0 in the run, 5 now" in message
    assert "  lr:" not in message and "--accept-changes" in message
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    trainer = Trainer(load_config(recipe, ["losses.focal=3"]), read_shards([data]), tmp_path / "run")
    trainer.run(stop_at=2, accept_changes=True)
    assert trainer.step == 2


def test_a_run_that_is_older_than_a_field_goes_on() -> None:
    stored = stored_form(TrainConfig(), 1)
    del stored["share"], stored["phases"][0]["scale"]
    check_unchanged(stored, TrainConfig(), 1, accept=False)
    with pytest.raises(OptionError, match=r"share: 1\.0 in the run, 0\.5 now"):
        check_unchanged(stored, TrainConfig(share=0.5), 1, accept=False)


def test_a_second_training_in_a_folder_waits_for_the_first(recipe: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    words = [sys.executable, "-m", "anymask", "train", "--config", recipe, "--data", data, "--out", out]
    with locked(out / "run"):
        second = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None and "another training holds" in second.stdout.readline()
        assert second.poll() is None and not (out / "state.pt").exists()
    second.communicate(timeout=120)
    assert second.returncode == 0 and (out / "model.safetensors").exists()


def test_free_fields_may_change(recipe: Path, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path / "run", 1, [])
    free = ["lr=2e-4", "encoder_lr=1e-5", "save_every=3", "phases.0.until_step=9", "ema=0.5", "data=[elsewhere/]"]
    trainer = train(recipe, data, tmp_path / "run", 2, free)
    assert trainer.step == 2  # learning rates that were equal are told apart now, and still find their moments
    assert {g["peak_lr"] for g in trainer.optimizer.param_groups} == {2e-4, 1e-5, 1e-4}
    assert all(trainer.optimizer.state[p]["step"] == 2 for p in trainer.sam.mask_decoder.iou_token.parameters())


def test_shards_read_photo_by_photo_go_on_exactly(
    recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYMASK_HOME", str(tmp_path / "home"))
    train_command(str(recipe), [data], tmp_path / "listed", [])
    cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (9, 9), 0)  # starts threads that the loader's fork lacks
    stream = ["stream=true", "loader_workers=1"]
    train_command(str(recipe), [data], tmp_path / "streamed", stream, stop_at=2)
    train_command(str(recipe), [data], tmp_path / "streamed", stream)
    listed, streamed = (
        [json.loads(line)["rounds"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("listed", "streamed")
    )
    assert len(listed) == 4 and streamed == listed
    assert list((tmp_path / "home" / "shards").iterdir())
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(OptionError, match="images and masks"):
        train_command(str(recipe), [tmp_path], tmp_path / "other", stream)


def test_other_parameters_are_refused_even_if_accepted() -> None:
    config = TrainConfig()
    stored = stored_form(TrainConfig(freeze=["image_encoder."]), 1)
    with pytest.raises(OptionError, match="freeze") as error:
        check_unchanged(stored, config, 1, accept=True)
    assert "--accept-changes" not in str(error.value)


def test_photos_of_a_step_may_be_spread_differently() -> None:
    spread = stored_form(TrainConfig(phases=[Phase(photos=2)], accumulate=2), 3)
    check_unchanged(spread, TrainConfig(phases=[Phase(photos=12)]), 1, accept=False)
    with pytest.raises(OptionError, match="photos of a step: 12 in the run, 6 now"):
        check_unchanged(spread, TrainConfig(phases=[Phase(photos=6)]), 1, accept=False)


def test_the_table_of_free_fields_names_real_fields() -> None:
    names = {f.name for f in fields(TrainConfig)} | {f"phases.*.{f.name}" for f in fields(Phase)}
    assert set(FREE) <= names and set(FIXED) <= names and not set(FREE) & set(FIXED)


def test_a_checkpoint_without_its_configuration_loads(recipe: Path, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path / "run", 1, [])
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    old = {k: v for k, v in state.items() if k not in ("config", "parameter_names")}
    torch.save(old, tmp_path / "run" / "state.pt")
    assert train(recipe, data, tmp_path / "run", 2, []).step == 2


def test_a_full_disk_leaves_the_last_checkpoint(recipe: Path, data: Path, tmp_path: Path) -> None:
    """The limit on file size is a real one: writing beyond it fails as on a full disk."""
    run = tmp_path / "run"
    train(recipe, data, run, 1, [])
    good = (run / "state.pt").read_bytes()
    limited = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY));"
        "sys.argv = ['anymask', *sys.argv[1:]]; runpy.run_module('anymask', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "train", "--config", str(recipe), "--data", str(data), "-o", str(run)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert "could not save step 2" in done.stderr and "checkpoint before it is intact" in done.stderr
    assert (run / "state.pt").read_bytes() == good
    assert sorted(p.name for p in run.iterdir()) == ["log.jsonl", "run.lock", "state.pt"]  # nothing half-written
    assert train(recipe, data, run, 2, []).step == 2


def ran_in_its_own_process(name: str) -> bool:
    """Run a test again alone: a loader forked from a process full of other tests' threads may wait forever."""
    if os.environ.get("ANYMASK_TEST_ALONE") == name:
        return False
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::{name}"],
        env={**os.environ, "ANYMASK_TEST_ALONE": name},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return True


def test_a_loss_that_is_not_a_number_names_the_photo(recipe: Path, data: Path, tmp_path: Path) -> None:
    if ran_in_its_own_process("test_a_loss_that_is_not_a_number_names_the_photo"):
        return
    trainer = train(recipe, data, tmp_path / "run", 1, [])
    good = (tmp_path / "run" / "state.pt").read_bytes()
    (batches, phase), *_ = trainer.feed().steps(1, 2)
    (name,) = batches[0].names
    with torch.no_grad():
        trainer.sam.mask_decoder.output_upscaling[0].bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=rf"photo '{name}' is nan.*last checkpoint is intact"):
        trainer.train_step(batches, phase)
    trainer.config.loader_workers, trainer.train_step = 1, lambda *_: check_finite(torch.tensor(torch.inf), name)
    with pytest.raises(TrainingError, match="is inf"):
        trainer.run()
    assert not multiprocessing.active_children()  # no loader is left to wait for
    assert (tmp_path / "run" / "state.pt").read_bytes() == good


def test_a_log_cut_in_half_is_mended(recipe: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(recipe, data, run, 1, [])
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "rounds": []}\n{"step": 3, "rou')
    train(recipe, data, run, 2, [])
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_a_broken_checkpoint_says_so(recipe: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        train(recipe, data, tmp_path / "run", 1, [])


def test_sigterm_saves_and_leaves(recipe: Path, data: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_config(recipe, ["save_every=100"]), read_shards([data]), tmp_path / "run")
    step = trainer.train_step

    def step_then_signal(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)  # type: ignore[arg-type]

    trainer.train_step = step_then_signal  # type: ignore[assignment,method-assign]
    try:
        trainer.run()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert trainer.step == 1 and torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 1


def test_a_broken_photo_is_named_plainly(recipe: Path, data: Path, tmp_path: Path) -> None:
    if ran_in_its_own_process("test_a_broken_photo_is_named_plainly"):
        return
    """Also where another process loads; the checkpoint before is kept."""
    train(recipe, data, tmp_path / "run", 1, [])
    good = (tmp_path / "run" / "state.pt").read_bytes()
    photos = read_shards([data])
    broken = [replace(photo, encoded=photo.encoded[:60]) for photo in photos]  # the header, and nothing else
    trainer = Trainer(load_config(recipe, ["loader_workers=1"]), broken, tmp_path / "run")
    with pytest.raises(ImageError) as error:
        trainer.run()
    assert not multiprocessing.active_children()
    assert re.fullmatch(r"discs[^/]*/d\d: the photo cannot be decoded; it is broken\.", str(error.value))
    assert (tmp_path / "run" / "state.pt").read_bytes() == good


def test_no_data_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no data: give --data"):
        train_command(config="finetune", data=[], out=tmp_path, override=[])
    unmasked = replace(read_shards([write_discs(tmp_path / "data")])[0], rles=[])
    write_shard([unmasked], tmp_path / "unmasked" / "x-000.tar")
    with pytest.raises(InputError, match=r"none of the 1 photos in .* has a mask"):
        train_command(config="finetune", data=[tmp_path / "unmasked"], out=tmp_path, override=[])
    with pytest.raises(OptionError, match="Did you mean 'freeze'"):
        train_command(config="finetune", data=[tmp_path / "data"], out=tmp_path, override=["freze=[]"])
