"""Proves: point to mask over sets counts every mask once, weighs sets alike, and runs any method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import photo_with
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import InputError, OptionError
from anymask.core.rle import encode_one
from anymask.data.readers import Photo
from anymask.data.shards import write_shard
from anymask.evaluate.click_methods import Clicks, click_method
from anymask.evaluate.models import ModelChoice
from anymask.evaluate.overrides import with_overrides
from anymask.evaluate.points import PointProtocol, Points
from anymask.evaluate.runner import run_task
from anymask.evaluate.subsample import Subsample, take


def disc_of(photo: np.ndarray) -> np.ndarray:
    return np.asarray(photo[..., 0] > 150)


@pytest.fixture
def shard(photo: np.ndarray, tmp_path: Path) -> Path:
    disc = disc_of(photo)
    tiny = np.zeros_like(disc)
    tiny[:3, :3] = True
    photos = [photo_with([disc, tiny], photo, "a", "x"), photo_with([tiny], photo, "b", "x")]
    empty = photo_with([disc], photo, "c", "x")
    photos.append(Photo("c", "x", empty.encoded, empty.hw, [encode_one(np.zeros_like(disc))], [None]))
    path = tmp_path / "davis-000.tar"
    write_shard(photos, path)
    return path


@pytest.mark.parametrize("name", ["grabcut", "felzenszwalb", "slic", "random_walker"])
def test_classical_methods_segment_the_disc(photo: np.ndarray, name: str) -> None:
    disc = disc_of(photo)
    method = click_method(name, photo, "a")
    click = method(Clicks(np.array([[90, 60]]), np.array([1])))
    box = method(Clicks(np.zeros((0, 2)), np.zeros(0), (61, 31, 119, 89)))
    for masks in (click, box):
        assert masks.ndim == 3 and masks.shape[1:] == disc.shape and masks.dtype == bool
        best = max((m & disc).sum() / (m | disc).sum() for m in masks)
        assert best > (0.1 if name == "slic" else 0.8), name


def test_finished_masks_answer_clicks_and_boxes(photo: np.ndarray, tmp_path: Path) -> None:
    disc, all_of_it = disc_of(photo), np.ones(photo.shape[:2], bool)
    records = [{"segmentation": encode_one(m), "predicted_iou": v} for m, v in ((all_of_it, 0.8), (disc, 0.7))]
    (tmp_path / "a.json").write_text(json.dumps({"image": {}, "annotations": records}))
    method = click_method(f"folder:{tmp_path}", photo, "a")
    assert (method(Clicks(np.array([[90, 60]]), np.array([1])))[0] == all_of_it).all()
    assert (method(Clicks(np.array([[90, 60], [2, 2]]), np.array([1, 0])))[0] == disc).all()
    assert (method(Clicks(np.zeros((0, 2)), np.zeros(0), (61, 31, 119, 89)))[0] == disc).all()
    assert not method(Clicks(np.array([[90, 60], [91, 60]]), np.array([1, 0]))).any()
    with pytest.raises(InputError, match=r"b\.json is not there"):
        click_method(f"folder:{tmp_path}", photo, "b")
    records[0]["predicted_iou"] = float("nan")
    (tmp_path / "a.json").write_text(json.dumps({"image": {}, "annotations": records}))
    with pytest.raises(InputError, match="NaN"):
        click_method(f"folder:{tmp_path}", photo, "a")
    with pytest.raises(OptionError, match="grabcut"):
        click_method("grabkut", photo, "a")


def test_every_photo_and_mask_is_accounted_for(shard: Path) -> None:
    protocol = with_overrides(PointProtocol(), ["clicks=[1,3]", "reach=[0.85]"])
    outcome = run_task(Points([shard], "felzenszwalb", protocol, domains={"davis": "video"}))
    row = outcome.summary["sets"]["davis"]
    assert row["photos"] == row["masks"] == row["left_out"] == 1
    assert row["oracle"] >= row["clicks_1"] > 80 and row["box"] > 80 and row["noc_85"] == 1
    assert outcome.summary["reached"] == {"85": [100.0] * 3}
    assert outcome.summary["mean"]["clicks_3"] == outcome.summary["domain: video"]["clicks_3"]
    assert len(outcome.problems) == 2
    assert "b: no mask of 100 px" in outcome.problems[0] and "c: no mask that is not empty" in outcome.problems[1]


def test_command_with_a_model_of_ones_own(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lite_random: object
) -> None:
    import sys
    import types

    from anymask.predict.segmenter import TorchSegmenter

    module = types.ModuleType("my_models")
    module.ours = lambda: TorchSegmenter(lite_random)  # type: ignore[arg-type,attr-defined]
    monkeypatch.setitem(sys.modules, "my_models", module)
    words = ["evaluate", "points", "--data", str(shard), "--model", "my_models:ours", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*words, "--set", "clicks=[1,2]"])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert set(result["mean"]) >= {"oracle", "clicks_1", "clicks_2", "noc_85", "noc_90", "box_oracle", "box"}
    assert result["protocol"]["first"] == "center" and len(list((tmp_path / "o" / "worst").iterdir())) == 1
    with pytest.raises(OptionError, match="gives a Segmenter"):
        ModelChoice("my_models:theirs").segmenter  # noqa: B018


def test_sub_sampling_takes_whole_photos_and_follows_the_seed() -> None:
    photos = list(range(100))
    assert take(photos, [10] * 100, Subsample(1000, 500), 0) == photos
    drawn = take(photos, [10] * 100, Subsample(999, 500), 0)
    assert len(drawn) == 50 and drawn == sorted(drawn)
    assert drawn == take(photos, [10] * 100, Subsample(999, 500), 0) != take(photos, [10] * 100, Subsample(999, 500), 1)
    assert take(photos, [10] * 100, Subsample(0, 500), 0) == photos
