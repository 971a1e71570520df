"""Proves: a rating study is blind and in random order, loses and doubles no rating, gives each mask to the people who
are wanted, and its intervals are those of a known sample."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.main import app as cli
from anymask.core.errors import InputError
from anymask.core.rle import encode_one
from anymask.evaluate.human_study import RatingStudy, make_study, open_study, results, to_csv
from anymask.model.sam import Sam
from anymask.predict.formats import write_masks
from anymask.predict.records import MaskRecord, PhotoMasks
from anymask.predict.segmenter import TorchSegmenter
from anymask.server.app import create_app
from anymask.server.settings import Settings


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Three photos with masks of two methods, two masks each and a tiny one."""
    (tmp_path / "photos").mkdir()
    for method in ("ours", "truth"):
        photos = []
        for i in range(3):
            Image.fromarray(np.full((80, 100, 3), 40 * i, np.uint8)).save(tmp_path / "photos" / f"p{i}.png")
            masks = np.zeros((3, 80, 100), bool)
            masks[0, 5:60, 5:60] = masks[1, 30:, 40:] = masks[2, :4, :4] = True
            records = tuple(MaskRecord(encode_one(mask), point_xy=(20.0, 20.0)) for mask in masks)
            photos.append(PhotoMasks(f"p{i}.png", (80, 100), records, i + 1))
        write_masks(photos, tmp_path / method, "sa1b")
    return tmp_path


@pytest.fixture
def study(places: Path) -> RatingStudy:
    methods = {"ours": places / "ours", "truth": places / "truth"}
    return make_study(places / "study", places / "photos", methods, wanted=2)


def test_every_person_has_an_order_of_their_own_and_each_mask_as_many_ratings_as_wanted(study: RatingStudy) -> None:
    assert len(study.jobs) == 12, "the tiny masks are left out"
    orders: dict[str, list[str]] = {}
    for rater in ("anna", "ben", "carl"):
        orders[rater] = []
        while (job := study.next_job(rater)) is not None:
            again = study.next_job(rater)
            assert again is not None and again.key == job.key, "what is in hand comes again"
            study.rate(job.key, rater, 7)
            orders[rater].append(job.key)
    assert sorted(orders["anna"]) == sorted(orders["ben"]) == sorted(study.jobs) and not orders["carl"]
    assert orders["anna"] != orders["ben"] != sorted(study.jobs)
    assert study.num_rated == 12


def test_two_people_at_once_get_different_masks_where_one_rating_is_wanted(places: Path) -> None:
    alone = make_study(places / "single", places / "photos", {"ours": places / "ours"})
    first, second = alone.next_job("anna"), alone.next_job("ben")
    assert first is not None and second is not None and first.key != second.key


def test_ratings_outlive_the_process_and_count_once(study: RatingStudy) -> None:
    key = next(iter(study.jobs))
    for rating in (3, 8, 8):
        study.rate(key, "anna", rating)
    with (study.folder / "ratings.jsonl").open("a") as file:
        file.write('\n{"job": "cut of')
    opened = open_study(study.folder)
    (kept,) = opened.ratings()
    assert (kept["rating"], kept["rater"], kept["method"]) == (8, "anna", study.jobs[key].method)
    opened.rate(key, "ben", 4)
    assert len(open_study(study.folder).ratings()) == 2, "a line that was cut off spoils no other"
    with pytest.raises(InputError, match="1 … 10"):
        study.rate(key, "anna", 11)
    with pytest.raises(InputError, match="already"):
        make_study(study.folder, study.folder, {})
    with pytest.raises(InputError, match="ratings init"):
        open_study(study.folder / "nothing")


def test_means_intervals_and_pairs(study: RatingStudy) -> None:
    rng = np.random.default_rng(0)
    for key, job in study.jobs.items():
        for rater in ("anna", "ben"):
            study.rate(key, rater, int(rng.integers(3, 6)) + (4 if job.method == "truth" else 0))
    found = results(study)
    ours, truth = found["methods"]
    assert (ours["method"], ours["masks"], ours["ratings"], found["raters"]) == ("ours", 6, 12, 2)
    by_mask: dict[tuple[str, int], list[int]] = {}
    for row in study.ratings():
        if row["method"] == "ours":
            by_mask.setdefault((row["photo"], row["prompt"]), []).append(row["rating"])
    values = [np.mean(ratings) for ratings in by_mask.values()]
    assert ours["mean"] == pytest.approx(np.mean(values))
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    assert ours["high"] - ours["low"] == pytest.approx(2 * half, rel=0.35)
    (pair,) = found["pairs"]
    assert (pair["of"], pair["over"], pair["masks"]) == ("truth", "ours", 6)
    assert pair["mean"] == pytest.approx(truth["mean"] - ours["mean"]) and pair["low"] > 0
    rows = list(csv.DictReader(io.StringIO(to_csv(study))))
    assert len(rows) == 24 and set(rows[0]) == {"method", "photo", "prompt", "rater", "rating"}


def test_the_commands(places: Path) -> None:
    run = CliRunner().invoke
    given = ["--photos", str(places / "photos"), "--method", f"ours={places / 'ours'}"]
    made = run(cli, ["ratings", "init", str(places / "new"), *given])
    assert made.exit_code == 0 and "6 masks of 3 photos" in made.output
    study = open_study(places / "new")
    study.rate(next(iter(study.jobs)), "anna", 9)
    shown = run(cli, ["ratings", "results", str(places / "new"), "--json"])
    assert json.loads(shown.output)["methods"][0]["mean"] == 9
    assert "ours,p" in run(cli, ["ratings", "results", str(places / "new"), "--csv"]).output


def test_over_http_nobody_learns_whose_mask_it_is(lite_random: Sam, study: RatingStudy) -> None:
    async def go() -> None:
        app = create_app(TorchSegmenter(lite_random), Settings(), study=study)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/api/study")).json() == {"jobs": 12, "rated": 0}
            answer = await client.post("/api/study/next", json={"rater": "anna"})
            assert "ours" not in answer.text and "truth" not in answer.text and ".png" not in answer.text
            job = answer.json()["job"]
            assert job["point"] == [20.0, 20.0] and job["segmentation"]["size"] == [80, 100]
            photo = await client.get(f"/api/study/photos/{job['photo']}")
            assert photo.headers["content-type"] == "image/png"
            assert (await client.get("/api/study/photos/3")).status_code == 404
            body = {"rater": "anna", "job": job["key"], "rating": 6, "seconds": 12.5}
            for _ in range(2):
                assert (await client.post("/api/study/ratings", json=body)).status_code == 204
            assert len(study.ratings()) == 1
            assert (await client.post("/api/study/ratings", json={**body, "rating": 0})).status_code == 422
            assert (await client.post("/api/study/ratings", json={**body, "job": "0" * 16})).status_code == 404
        await asyncio.to_thread(app.state.studio.stop)

    asyncio.run(go())
