"""Proves: the report page counts and compares right, is one file, and says what it measured; a million masks are quick
(benchmarks/engine_store.py)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update
from test_engine_store import HW, fill, place, server, store  # noqa: F401 - fixtures
from typer.testing import CliRunner

from anymask.cli.engine import app
from anymask.core.rle import encode_one
from anymask.engine.corrections import compare_corrected
from anymask.engine.costs import spending
from anymask.engine.leases import next_task, save_masks
from anymask.engine.records import NewMask
from anymask.engine.report import make_report
from anymask.engine.report_costs import Price, people_seconds
from anymask.engine.report_details import make_details
from anymask.engine.report_page import to_html
from anymask.engine.reviews import review, undo
from anymask.engine.store import Store, make_store
from anymask.engine.tables import costs
from anymask.engine.versions import add_masks


def box(width: int, author: str = "m1", kind: str = "model", **more: object) -> NewMask:
    """A mask of 10 rows and so many columns."""
    mask = np.zeros(HW, dtype=bool)
    mask[3:13, 4 : 4 + width] = True
    return NewMask(encode_one(mask), author, kind, **more)  # type: ignore[arg-type]


def with_corrections(store: Store) -> int:  # noqa: F811
    """Ten automatic masks: two accepted, four corrected (one of them undone), one rejected, three not looked at."""
    project, (image_id, other) = fill(store, 2)
    ids = add_masks(store, image_id, [box(20) for _ in range(10)], 3)
    for mask_id in ids[:2]:
        review(store, mask_id, "accept", "bob", seconds=3.0)
    for mask_id, width in zip(ids[2:5], (19, 16, 10)):  # IoU 0.95, 0.8, 0.5
        review(store, mask_id, "edit", "bob", edited=box(width, "bob", "person"))
    undo(store, review(store, ids[5], "edit", "bob", edited=box(1, "bob", "person")), "bob")
    review(store, ids[6], "reject", "bob")
    hand = add_masks(store, other, [box(20, "anna", "person", seconds=s) for s in (10.0, 41.0)], 1)
    review(store, hand[0], "edit", "bob", edited=box(5, "bob", "person"))  # of a person: no automatic mask
    return project


def test_automatic_masks_are_compared_with_their_corrections(store: Store) -> None:  # noqa: F811
    project = with_corrections(store)
    found = compare_corrected(store, project)
    assert (found.num_same, found.num_edited, found.num_rejected) == (2, 4, 1)
    assert sorted(found.edited_ious) == pytest.approx([0.5, 0.8, 0.95, 1.0])
    assert found.share_above(0.9) == pytest.approx(4 / 6)
    assert found.share_above(0.75) == pytest.approx(5 / 6)
    assert found.mean_iou == pytest.approx((2 + 3.25) / 6)
    assert compare_corrected(store, project, stages=[2]).share_above(0.9) is None
    sampled = compare_corrected(store, project, num_sampled=2)
    assert (sampled.num_pairs, len(sampled.edited_ious)) == (6, 2)


def test_details_are_counted_by_hand(store: Store) -> None:  # noqa: F811
    project = with_corrections(store)
    lease = next_task(store, project, "anna")
    save_masks(store, lease, [], finish=True, seconds=90.0)
    facts = {"held_out": {"after": {"selected": 61.0}}, "step": 1}
    model = store.add_model_version(project, "v1", "v1.pt", facts=facts)
    store.start_round(project, 2, model)
    details = make_details(store, project)
    assert details.seconds == {1: [0] * 5 + [1] + [0] * 14 + [1]}
    assert details.shapes[3]["masks_per_photo"]["mean"] == 9 and details.num_measured == {1: 2, 3: 9}
    assert [(p.name, p.num_photos, p.num_reviews, p.seconds) for p in details.people] == [
        ("anna", 1, 0, 90.0),
        ("bob", 0, 9, 6.0),
    ]
    assert [num for _, num in details.days] == [1]
    (version,) = details.models
    assert (version.name, version.scores, version.rounds) == ("v1", {"one click": 0.61}, (2,))
    assert people_seconds(make_report(store, project), details) == 96.0


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path: Path) -> None:
    kept = make_store(tmp_path / "s.db", "<script>alert(1)</script>")
    project = with_corrections(kept)
    kept.add_model_version(project, "<b>v1</b><i>", "v1.pt", facts={"held_out": {"after": {"oracle": 50.0}}})
    with spending(kept, project, "<u>odd</u>", 3):
        pass
    page = to_html("<script>", make_report(kept, project), make_details(kept, project), Price(36.0))
    kept.close()
    assert "<u>" not in page and "&lt;u&gt;odd" in page
    assert "<script" not in page and "<b>v1" not in page and "<i>" not in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page) and "@import" not in page
    assert page.count("<svg") == 7
    assert "66.7%" in page and "83.3%" in page and "4 of 4 corrected masks of stage 3" in page
    assert "0.57 €" in page, "51 s of drawing and 6 s of reviews at 36 € an hour"


def test_computing_is_kept_by_round_and_kind_and_has_a_price(store: Store) -> None:  # noqa: F811
    project = with_corrections(store)  # 9 masks of stage 3 that are not rejected, 2 of stage 1
    assert make_report(store, project).cpu_seconds_per_mask(3) is None
    with spending(store, project, "train", 5), pytest.raises(ValueError, match="stop"):
        started = time.process_time()
        while time.process_time() < started + 0.05:
            pass
        raise ValueError("stop")  # what failed is kept too
    with store.transaction(writes=True) as connection:
        connection.execute(update(costs).values(cpu_seconds=7200.0))
    store.start_round(project, 3)
    for _ in range(2):
        with spending(store, project, "generate", 1):
            subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    counted = make_report(store, project)
    train, generate = counted.costs
    assert (train.round, train.kind, train.num_photos, train.cpu_seconds) == (1, "train", 5, 7200.0)
    assert (generate.round, generate.stage, generate.num_photos) == (2, 3, 2)
    assert generate.cpu_seconds > 0.05, "a child's time counts"
    assert counted.cpu_seconds_per_mask(3) == pytest.approx(generate.cpu_seconds / 9)
    assert counted.cpu_seconds_per_mask(1) is None, "training is for all masks"
    page = to_html("street", counted, make_details(store, project), Price(36.0, "CHF", 0.5))
    assert "retraining the model" in page and "2.0 h" in page and "1.00 CHF" in page
    assert "1.57 CHF" in page, "with 57 s of people"
    json_ = counted.to_json()["computing"]
    assert json_["cpu_seconds"] == pytest.approx(7200 + generate.cpu_seconds)


def test_an_empty_project_has_a_page_too_and_the_command_writes_it(tmp_path: Path) -> None:
    database, page = str(tmp_path / "s.db"), tmp_path / "report.html"
    make_store(database).close()
    done = CliRunner().invoke(app, ["report", database, "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "No masks yet" in page.read_text() and "anymask engine study" in page.read_text()
    refused = CliRunner().invoke(app, ["report", database, "--hourly", "9"])
    assert "--html" in str(refused.exception)


def test_the_shares_stand_in_words_and_json_too(tmp_path: Path) -> None:
    kept = make_store(tmp_path / "s.db")
    with_corrections(kept)
    kept.close()
    words = CliRunner().invoke(app, ["report", str(tmp_path / "s.db")]).output
    assert "2 as they were, 4 corrected, 1 rejected; IoU above 0.90: 66.7% (paper 94%), above 0.75: 83.3%" in words
    shown = json.loads(CliRunner().invoke(app, ["report", str(tmp_path / "s.db"), "--json"]).output)
    assert shown["automatic_against_corrected"]["share_above_0.75"] == pytest.approx(5 / 6)
