"""Proves: a study chooses photos at random, opens one task each, and compares only what people finished."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from test_engine_report import box
from test_engine_store import fill, place, server, store  # noqa: F401 - fixtures
from typer.testing import CliRunner

from anymask.cli.engine import app
from anymask.core.errors import InputError, StateError
from anymask.engine.leases import finish_task, next_task
from anymask.engine.report import status
from anymask.engine.reviews import review
from anymask.engine.store import Store, make_store
from anymask.engine.study import latest_study, open_study, result_of, write_result
from anymask.engine.versions import add_masks


def with_automatic_masks(store: Store, num_photos: int = 6) -> int:  # noqa: F811
    project, ids = fill(store, num_photos)
    for image_id in ids[:-1]:
        add_masks(store, image_id, [box(20), box(10)], 3)
    add_masks(store, ids[0], [box(7, "anna", "person")], 1)  # a person's: not compared
    return project


def correct_one_photo(store: Store, project: int) -> int:  # noqa: F811
    """One mask cut to 0.8, the other accepted."""
    lease = next_task(store, project, "bob", "review")
    assert lease is not None
    first, second, *_ = store.masks([lease.image_id])
    review(store, first.id, "edit", "bob", edited=box(16, "bob", "person"))
    review(store, second.id, "accept", "bob")
    finish_task(store, lease)
    return lease.image_id


def test_a_study_from_choice_to_shares(store: Store, tmp_path: Path) -> None:  # noqa: F811
    project = with_automatic_masks(store)
    with pytest.raises(StateError, match="engine study"):
        result_of(store, project)
    study = open_study(store, project, 3, seed=4)
    assert len(study.image_ids) == 3 and latest_study(store, project) == study
    assert status(store, project).tasks["review"] == {"open": 3}
    assert result_of(store, project).compared.num_pairs == 0
    done = {correct_one_photo(store, project) for _ in range(2)}
    assert done < set(study.image_ids)
    store.start_round(project, 3)  # the study goes on
    found = result_of(store, project)
    assert (found.num_photos, found.num_done, found.compared.num_pairs, found.num_open) == (3, 2, 4, 0)
    assert found.compared.share_above(0.9) == 0.5 and found.compared.share_above(0.75) == 1.0
    assert found.intervals == {0.9: (0.5, 0.5), 0.75: (1.0, 1.0)}
    write_result(found, tmp_path / "pairs.csv")
    rows = list(csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines()))
    assert sorted((row["outcome"], float(row["iou"])) for row in rows) == [("corrected", 0.8)] * 2 + [("same", 1.0)] * 2
    with pytest.raises(InputError, match=r"\.json or \.csv"):
        write_result(found, tmp_path / "pairs.txt")


def test_masks_that_nobody_looked_at_and_rejected_ones_count_nowhere(store: Store) -> None:  # noqa: F811
    project = with_automatic_masks(store, 2)
    open_study(store, project, 9)
    lease = next_task(store, project, "bob", "review")
    review(store, store.masks([lease.image_id])[0].id, "reject", "bob")
    finish_task(store, lease)
    found = result_of(store, project)
    assert (found.compared.num_pairs, found.compared.num_rejected, found.num_open) == (0, 1, 1)
    assert found.compared.share_above(0.9) is None


def test_the_command_guides_from_step_to_step(tmp_path: Path) -> None:
    database = str(tmp_path / "s.db")
    kept = make_store(database)
    project, _ = fill(kept, 1)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["study", database, *words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    with pytest.raises(InputError, match="nothing to study"):
        run()
    (image,) = kept.images(project)
    add_masks(kept, image.id, [box(20), box(10)], 3)
    assert "1 photos chosen at random" in (first := run("-n", "1")) and "anymask serve" in first
    assert "chosen" not in run() and "0 of 1 photos are done" in run()
    correct_one_photo(kept, project)
    kept.close()
    last = run("--export", str(tmp_path / "pairs.json"))
    assert "IoU above 0.90: 50.0%" in last and "paper 94%" in last and "Next" not in last
    assert json.loads(run("--json"))["share_above_0.75"] == 1.0
    assert len(json.loads((tmp_path / "pairs.json").read_text())["masks"]) == 2
