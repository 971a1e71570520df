"""Proves: worker processes do every photo exactly once, also when they are killed with SIGKILL."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from worker_doubles import Squares, no_weights

from anymask.core.errors import CheckpointError, OptionError
from anymask.core.images import write_image
from anymask.predict.everything import Outcome, Plan, finish, prepare
from anymask.predict.formats import read_masks
from anymask.predict.options import AutomaticOptions
from anymask.predict.sources import PhotoSource, find_photos
from anymask.predict.workers import Load, segment_in_workers


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos; the third begins with a white pixel."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        write_image(folder / f"{i}.png", np.full((8, 9, 3), 255 if i == 2 else 10 * i, np.uint8))
    return folder


def plan_in(folder: Path) -> Plan:
    return Plan(folder, "coco", AutomaticOptions(), "squares", overlays=False)


def run(load: Load, sources: list[PhotoSource], plan: Plan, num_workers: int) -> list[Outcome]:
    """A whole run; outcomes in the order of the photos."""
    prepare(plan)
    outcomes = {o.source.name: o for o in segment_in_workers(load, sources, plan, num_workers)}
    finish(plan, sources)
    assert len(outcomes) == len(sources)
    return [outcomes[source.name] for source in sources]


def test_a_killed_workers_photo_is_done_by_another(photos: Path, tmp_path: Path) -> None:
    plan, sources = plan_in(tmp_path / "out"), find_photos([photos])
    marker = tmp_path / "killed"
    outcomes = run(partial(Squares, marker), sources, plan, 2)
    assert marker.exists()
    assert [(o.source, o.error, o.skipped) for o in outcomes] == [(s, None, False) for s in sources]
    assert [(p.stem, len(p.masks)) for p in read_masks(tmp_path / "out")] == [(str(i), 1) for i in range(5)]
    left = [p.name for p in (tmp_path / "out").rglob("*.part")]
    assert left == []


def test_a_photo_that_always_kills_is_reported(photos: Path, tmp_path: Path) -> None:
    plan, sources = plan_in(tmp_path / "out"), find_photos([photos])
    outcomes = run(Squares, sources, plan, 1)
    failed = [o for o in outcomes if o.error is not None]
    assert [o.source.stem for o in failed] == ["2"]
    assert "2 workers died" in str(failed[0].error) and "SIGKILL" in str(failed[0].error)
    assert [p.stem for p in read_masks(tmp_path / "out")] == ["0", "1", "3", "4"]


def test_a_model_that_does_not_load_ends_the_run(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        run(no_weights, find_photos([photos]), plan_in(tmp_path / "out"), 1)
    with pytest.raises(OptionError, match="--workers must be 1 or more"):
        run(Squares, find_photos([photos]), plan_in(tmp_path / "out"), 0)
