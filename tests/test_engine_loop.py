"""Proves: stage 3, publishing, retraining and the whole loop work, go on after a stop, and change nothing published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_discs import disc_store, stage_one
from train_data import write_discs
from typer.testing import CliRunner

from anymask.cli.engine_run import recipe_of, shares
from anymask.cli.main import app
from anymask.cli.train import find_recipe
from anymask.core.errors import CheckpointError, InputError, OptionError, StateError
from anymask.core.images import read_image
from anymask.core.rle import encode_one
from anymask.engine.automatic import automatic_here, begin_automatic, generator_options, round_facts
from anymask.engine.blend import blend
from anymask.engine.costs import KINDS
from anymask.engine.held_out import HeldOut, HeldOutProtocol
from anymask.engine.leases import next_task, save_masks
from anymask.engine.models import ModelWatch, first_version, load_version, serve, serving_version, versions
from anymask.engine.publish import open_published, publish
from anymask.engine.records import NewMask
from anymask.engine.report import make_report, status
from anymask.engine.report_details import make_details
from anymask.engine.retrain import Retraining, recipe_for, retrain
from anymask.engine.reviews import review
from anymask.engine.stages import remaining_images
from anymask.engine.store import Store, open_store
from anymask.engine.truth import Truth
from anymask.evaluate.interactive import click_rounds
from anymask.evaluate.point_to_mask import Protocol, chosen_masks
from anymask.model import presets
from anymask.train.config import load_config
from anymask.weights.catalog import require_local
from anymask.weights.load import load_model
from anymask.weights.save import save_model

TINY = "phases=[{until_step: 2, image_size: 64, photos: 1, masks: 1, num_clicks: 1, num_empty: 0}]"
FEW = {"points_per_side": 3, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.1}


def annotated(folder: Path, num_photos: int = 3, num_done: int = 2) -> tuple[Store, int, Truth]:
    """A store whose first photos have their true masks."""
    store, project, truth = disc_store(folder, num_photos)
    stage_one(store, project, num_done)
    while lease := next_task(store, project, "anna"):
        objects = truth.objects(store.image(lease.image_id).sha256)
        assert objects is not None
        save_masks(store, lease, [NewMask(encode_one(mask), "anna", seconds=9.0) for mask in objects], finish=True)
    return store, project, truth


def settings(folder: Path, lr: float = 1e-5, margin: float = 0.0) -> Retraining:
    held_out = HeldOut.read([folder / "discs"], HeldOutProtocol(max_photos=1, max_masks=2, clicks=2))
    config = load_config(find_recipe("engine"), [TINY, f"lr={lr}", f"encoder_lr={lr}"])
    return Retraining(folder / "work", config, held_out, margin=margin)


def test_the_generator_does_the_remaining_photos_and_its_thresholds_are_kept(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path, 4, 1)
    model = first_version(store, project)
    options = generator_options(load_version(model), **FEW)
    gone = store.image(remaining_images(store, project)[0])
    begin_automatic(store, project, remaining_images(store, project), options, model.id)
    Path(gone.place).unlink()
    done = automatic_here(store, project, "generator")
    assert done.num_photos == 2 and done.num_masks > 0 and "is gone" in done.skipped[0][1]
    assert status(store, project).tasks["generate"] == {"done": 2, "skipped": 1}
    facts = round_facts(store, project)["generator"]
    assert facts["pred_iou_thresh"] == 0.1 and facts["min_mask_region_area"] == 100 and facts["max_coverage"] == 0.95
    found = [m for i in store.images(project) for m in store.masks([i.id]) if m.stage == 3]
    assert len(found) == done.num_masks
    for mask in found:
        assert (mask.author_kind, mask.model_version_id) == ("model", model.id)
        assert len(mask.prompts["point_xy"]) == 2 and len(mask.prompts["crop_xywh"]) == 4
        assert mask.predicted_iou > 0.1 and mask.stability_score >= 0.1
    store.close()


def test_only_a_round_of_stage_3_is_worked_off(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path, 1, 1)
    with pytest.raises(StateError, match="not in stage 3"):
        automatic_here(store, project, "generator")
    with pytest.raises(OptionError, match="Known: local, ray"):
        run("automatic", str(tmp_path / "masks.db"), "--engine", "spark")
    store.close()


def test_a_published_data_set_holds_the_good_masks_and_never_changes(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path)
    one, two = (i for i in store.images(project) if store.masks([i.id]))
    review(store, store.masks([one.id])[0].id, "reject", "bob")
    data = publish(store, project, tmp_path / "d" / "v1", {"version": "v1"})
    assert (data.num_masks, data.num_photos, data.manifest["version"]) == (5, 2, "v1")
    assert sorted(f["name"] for f in data.manifest["files"]) == ["manual-000.tar"]
    assert [len(p.rles) for p in data.photos()] == [2, 3] and len(data.photos(oversample=3)) == 6
    review(store, store.masks([two.id])[0].id, "reject", "bob")
    again = publish(store, project, tmp_path / "d" / "v1")
    assert again == data, "published once"
    other = publish(store, project, tmp_path / "d" / "v2")
    assert other.num_masks == 4
    (file,) = (data.folder / f["name"] for f in data.manifest["files"])
    assert not os.access(file, os.W_OK) or os.getuid() == 0
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match=r"manual-000\.tar is not what was published"):
        open_published(data.folder)
    file.unlink()
    with pytest.raises(InputError, match=r"manual-000\.tar is missing"):
        publish(store, project, data.folder)
    store.close()


def test_candidates_are_not_published_and_missing_photos_are_named(tmp_path: Path) -> None:
    store, project, _ = disc_store(tmp_path, 2)
    stage_one(store, project)
    with pytest.raises(InputError, match="no mask to publish"):
        publish(store, project, tmp_path / "v1")
    square = np.zeros((64, 96), bool)
    square[:20, :20] = True
    states = ("proposed", "accepted")
    for state in states:
        lease = next_task(store, project, "anna")
        masks = [NewMask(encode_one(square), "prefill", "model", state)]
        masks += [NewMask(encode_one(square.T[:64, :64].repeat(2, 1)[:64, :96] | square), "anna")]
        save_masks(store, lease, masks, finish=True)
    data = publish(store, project, tmp_path / "v1")
    assert sorted(len(p.rles) for p in data.photos()) == [1, 2]
    lost = next(store.images(project)).place
    Path(lost).unlink()
    assert publish(store, project, tmp_path / "v2").manifest["missing_photos"] == [lost]
    store.close()


def test_a_retrained_model_is_promoted_and_a_server_sees_it(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path)
    first = first_version(store, project)
    watch = ModelWatch(store, project, first.id)
    assert watch.poll() is None
    ended_by = signal.getsignal(signal.SIGTERM)
    made = retrain(store, project, settings(tmp_path, margin=100.0))
    assert signal.getsignal(signal.SIGTERM) == ended_by, "the program ends at SIGTERM again"
    assert made.is_promoted and made.model.parent_id == first.id and made.data.num_masks == 6
    assert serving_version(store, project) == made.model
    seen = watch.poll()
    assert seen == made.model and watch.poll() is None
    assert load_version(seen).side == load_version(first).side
    facts = made.model.facts
    assert facts["blends"].keys() == {"1", "0.5"} and facts["blends"][f"{facts['blend']:g}"] == made.after.curve
    assert made.after.curve == max(facts["blends"].values())
    assert facts["data_set_sha256"] == made.data.sha256 and facts["num_masks"] == {"1": 6}
    assert facts["held_out"]["before"] == made.before.to_json()
    (scores,) = [m.scores for m in make_details(store, project).models if m.name == "v1"]
    assert scores["one click"] == pytest.approx(made.after.selected / 100), "the report shows the model's quality"
    Path(seen.place).write_bytes(b"other weights")
    with pytest.raises(CheckpointError, match="has changed since it became version v1"):
        load_version(seen)
    store.close()


def test_versions_are_compared_after_one_two_and_four_clicks(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path)
    segmenter = load_version(first_version(store, project))
    store.close()
    held_out = HeldOut.read([tmp_path / "discs"], HeldOutProtocol(max_photos=1, max_masks=2, clicks=7))
    truth = chosen_masks(held_out.photos[0], Protocol(max_masks=2))
    (embedding,) = segmenter.encode([read_image(held_out.photos[0].encoded)])
    ious = click_rounds(segmenter, embedding, truth, 7).selected
    score = held_out.score(segmenter)
    assert score.selected == pytest.approx(100 * ious[:, 0].mean())
    assert score.curve == pytest.approx(100 * ious[:, [0, 1, 3]].mean())


def test_a_worse_model_is_kept_but_does_not_serve(tmp_path: Path) -> None:
    store, project, _ = annotated(tmp_path)
    first = first_version(store, project)
    made = retrain(store, project, settings(tmp_path, margin=-1000.0))  # nothing gains a thousand points
    assert not made.is_promoted and serving_version(store, project) == first
    assert [v.name for v in versions(store, project)] == ["v0", "v1"]
    watch = ModelWatch(store, project, first.id)
    for name in ("v1", "v0", made.model.place):  # whoever knows better, and back, and other weights
        shown = run("models", str(tmp_path / "masks.db"), "--serve", name)
        assert watch.poll() == serving_version(store, project)
    assert [line.split()[0] for line in shown.splitlines() if "serves" in line] == ["v2"]
    with pytest.raises(CheckpointError, match="cannot be read"):
        serve(store, project, str(tmp_path / "nothing.safetensors"))
    store.close()


def test_a_blend_lies_between_two_models(tmp_path: Path) -> None:
    old, new, half = require_local("lite"), tmp_path / "new.safetensors", tmp_path / "half.safetensors"
    sam = load_model("lite")
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight += 4
    save_model(sam, new, "lite")
    start = load_model("lite").state_dict()
    blended = load_model(blend(old, new, 0.25, half)).state_dict()
    name = "mask_decoder.iou_token.weight"
    torch.testing.assert_close(blended[name], start[name] + 1, atol=4e-3, rtol=0)
    for key in start.keys() - {name}:
        torch.testing.assert_close(blended[key], start[key], atol=1e-3, rtol=1e-3)
    stamp = half.stat().st_mtime_ns
    assert blend(old, new, 0.25, half).stat().st_mtime_ns == stamp, "made once"
    with pytest.raises(OptionError, match="above 0 and up to 1"):
        blend(old, new, 0.0, tmp_path / "none")
    for words in ("x", "0", "1,2"):
        with pytest.raises(OptionError, match="share"):
            shares(words)


def test_a_vit_gets_its_own_recipe_and_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.VIT_SIZES, "vit_b", presets.ViTSize(32, 2, 2, (1,)))
    torch.manual_seed(0)
    save_model(presets.build_sam("vit_b"), tmp_path / "vit.safetensors", "vit_b")
    store, project, _ = annotated(tmp_path)
    first = serve(store, project, str(tmp_path / "vit.safetensors"))
    assert recipe_for(first) == ("finetune_decoder", ["model=vit_b", "decoder_depth=2"])
    with pytest.raises(OptionError, match=r"trains lite, but v0 .* vit_b: --config finetune_decoder --set model=vit_b"):
        retrain(store, project, settings(tmp_path))
    words = ["phases=[{until_step: 1, image_size: 0, photos: 1, masks: 1, num_clicks: 1, num_empty: 0}]"]
    name, changes = recipe_of(first, None)
    chosen = replace(settings(tmp_path), config=load_config(find_recipe(name), [*changes, *words]), recipe=name)
    made = retrain(store, project, chosen).model
    assert made.facts["recipe"] == "finetune_decoder" and made.facts["config"]["model"] == "vit_b"
    assert recipe_of(made, None) == recipe_of(first, None) and recipe_of(made, "engine") == ("engine", [])
    store.close()


def test_the_loop_is_killed_and_goes_on_to_its_end(tmp_path: Path) -> None:
    truth, held_out = write_discs(tmp_path / "discs", 7), write_discs(tmp_path / "dev", 2)
    place = tmp_path / "loop.db"
    run("init", str(place), group="engine")
    words = ["run", str(place), "--simulate", "--truth", str(truth), "--held-out", str(held_out)]
    words += ["--photos", "2,2,3", "--detector-steps", "2", "--set", TINY, "--margin", "100", "--move-on", "999"]
    words += ["--last-config", "engine_late", "--blend", "1"]
    words += ["--dev-photos", "1", "--dev-masks", "1", "--dev-clicks", "2"]
    words += [part for name, value in FEW.items() for part in ("--generator", f"{name}={value}")]
    command = [sys.executable, "-m", "anymask", "engine", *words]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("prefill: 1 "):  # in the middle of stage 2
            started.send_signal(signal.SIGKILL)
            break
    started.communicate(timeout=60)
    store = open_store(place)
    project = store.project_id()
    assert [v.name for v in versions(store, project)] == ["v0", "v1"]
    before = {m.id for i in store.images(project) for m in store.masks([i.id])}
    shown = run(*words, group="engine")
    assert [v.name for v in versions(store, project)] == ["v0", "v1", "v2", "v3"]
    assert [v.facts.get("recipe") for v in versions(store, project)] == [None, "engine", "engine", "engine_late"]
    assert before <= {m.id for i in store.images(project) for m in store.masks([i.id], all_versions=True)}
    assert "+ automatic" in shown and "from first to serving model" in shown
    stages = {stage.stage: stage for stage in make_report(store, project).stages}
    assert stages.keys() == {1, 2, 3} or stages.keys() == {1, 2}
    spent = {cost.kind: cost for cost in make_report(store, project).costs}
    assert spent.keys() == set(KINDS) and all(cost.cpu_seconds > 0 for cost in spent.values())
    assert stages[1].num_images == 2 and stages[1].num_by_models == 0 and stages[1].seconds_per_mask > 0
    left = {state for states in status(store, project).tasks.values() for state in states}
    assert left <= {"done", "skipped"}
    work = tmp_path / "loop-engine"
    assert [point["name"] for point in json.loads((work / "gain.json").read_text())][-1] == "+ automatic"
    assert (work / "gain.png").stat().st_size > 5000
    began = time.monotonic()
    assert shown.endswith(run(*words, group="engine")), "nothing is left to do"
    assert time.monotonic() - began < 20
    store.close()


def test_run_with_people_or_odd_stages_is_explained(tmp_path: Path) -> None:
    store, _, _ = disc_store(tmp_path, 1)
    store.close()
    words = (
        "run",
        str(tmp_path / "masks.db"),
        "--truth",
        str(tmp_path / "discs"),
        "--held-out",
        str(tmp_path / "discs"),
    )
    for more, reason in [
        ((), "add --simulate"),
        (("--simulate", "--stages", "1,4", "--photos", "1,1"), "stages are 1, 2 and 3"),
        (("--simulate", "--photos", "1"), "for each of the 3 stages"),
        (("--simulate", "--photos", "a,b"), "whole numbers"),
    ]:
        with pytest.raises(OptionError, match=reason):
            run(*words, *more)


def run(*words: str, group: str = "engine") -> str:
    done = CliRunner().invoke(app, [group, *words], catch_exceptions=True)
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout
