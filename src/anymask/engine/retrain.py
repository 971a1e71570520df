"""Retraining: publish a data set, train from the serving model, judge, promote what is not worse (PAPER §4.2)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from anymask.core.errors import OptionError, StateError
from anymask.engine.blend import blend
from anymask.engine.costs import spending
from anymask.engine.held_out import HeldOut, HeldOutScore
from anymask.engine.models import ModelVersion, file_hash, load_version, serving_version, version, versions
from anymask.engine.publish import DataSet, publish
from anymask.engine.store import Store
from anymask.train.config import TrainConfig
from anymask.train.loop import Trainer
from anymask.weights.read import read_state_dict
from anymask.weights.recognise import recognise

OVERSAMPLE = 10  # people's masks beside automatic ones (PAPER §3.4, §7.7)


@dataclass(frozen=True)
class Retraining:
    """Where and how. work: folder of data sets, runs and scores. config: a recipe; it starts from the serving model.

    margin: by how many points the new model may be worse and still be promoted. Models are compared by
    `HeldOutScore.curve`: one click alone judged by chance, and not what later clicks gain.
    blends: shares of the trained weights beside those of the serving model; the best of these on the held-out photos is
    the new model. A small data set of its own kind makes a model better there and worse elsewhere; halfway, most of the
    gain is left and little of the loss (docs/guide/data-engine.md).
    """

    work: Path
    config: TrainConfig
    held_out: HeldOut
    recipe: str = "engine"
    oversample: int = OVERSAMPLE
    margin: float = 0.0
    blends: tuple[float, ...] = (1.0, 0.5)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Retrained:
    """What came of it."""

    model: ModelVersion
    data: DataSet
    before: HeldOutScore
    after: HeldOutScore

    @property
    def is_promoted(self) -> bool:
        """Does the new model serve now?"""
        return self.model.is_promoted


def recipe_for(model: ModelVersion) -> tuple[str, list[str]]:
    """Name and overrides of the recipe that suits a version's weights: `engine` for lite; for a ViT prompt encoder and
    decoder alone, on embeddings that are computed once.
    """
    preset, depth = recognise(read_state_dict(model.file))
    if preset == "lite":
        return "engine", []
    return "finetune_decoder", [f"model={preset}", f"decoder_depth={depth}"]


def check_recipe(config: TrainConfig, model: ModelVersion) -> None:
    """OptionError, with what to give instead, where a recipe trains another model than the one that serves."""
    preset, _ = recognise(read_state_dict(model.file))
    if {"default": "vit_h"}.get(config.model, config.model) != preset:
        name, changes = recipe_for(model)
        words = " ".join([f"--config {name}", *(f"--set {change}" for change in changes)])
        more = "" if preset == "lite" else f", or --config finetune_lora --set model={preset}"
        raise OptionError(f"the recipe trains {config.model}, but {model.name} that serves is {preset}: {words}{more}.")


def retrain(
    store: Store, project_id: int, settings: Retraining, say: Callable[[str], None] = lambda text: None
) -> Retrained:
    """Make the next model version. Stopped at any moment, the same call goes on where it was.

    The version's data set, recipe, scores and parent are recorded with it. Raises StateError without a serving model
    (`models.first_version` makes one), InputError where there is nothing to train on, OptionError for a recipe of
    another model.
    """
    parent = serving_version(store, project_id)
    if parent is None:
        raise StateError("no model serves this project yet; name the first with models.first_version.")
    check_recipe(settings.config, parent)
    work = settings.work
    name = f"v{len(versions(store, project_id))}"

    def judge(model: ModelVersion) -> HeldOutScore:
        with spending(store, project_id, "held-out", len(settings.held_out.photos)):
            return settings.held_out.score_once(work / "scores", _hash_of(model), lambda: load_version(model), say)

    before = judge(parent)
    about = {"version": name, "parent": parent.name, "parent_sha256": parent.sha256}
    data = publish(store, project_id, work / "datasets" / name, about)
    say(f"{name}: {data.num_masks:,} masks on {data.num_photos:,} photos in {data.folder}")
    with spending(store, project_id, "train", data.num_photos):
        weights = _train(settings, data, parent, work / "runs" / name)
    scores: dict[float, HeldOutScore] = {}
    candidates: dict[float, ModelVersion] = {}
    for share in settings.blends:
        file = weights if share == 1 else weights.with_name(f"blend-{share:g}.safetensors")
        if share != 1:
            blend(parent.file, weights, share, file)
        candidates[share] = ModelVersion(-1, name, str(file), file_hash(file), parent.id, {}, False)
        scores[share] = judge(candidates[share])
        say(f"{name}: {share:.0%} of the trained weights, few clicks {scores[share].curve:.1f} mIoU")
    share = max(scores, key=lambda share: scores[share].curve)
    trained, after = candidates[share], scores[share]
    facts = {
        "data_set": str(data.folder),
        "data_set_sha256": data.sha256,
        "num_masks": {str(f["stage"]): f["num_masks"] for f in data.manifest["files"]},
        "recipe": settings.recipe,
        "blend": share,
        "blends": {f"{each:g}": score.curve for each, score in scores.items()},
        "config": asdict(settings.config),
        "held_out": {"key": settings.held_out.key, "before": before.to_json(), "after": after.to_json()},
        **settings.facts,
    }
    is_good = after.curve >= before.curve - settings.margin
    new_id = store.add_model_version(
        project_id, name, trained.place, sha256=trained.sha256, parent_id=parent.id, facts=facts, promoted=is_good
    )
    made = Retrained(version(store, new_id), data, before, after)
    say(
        f"{name}: one click {before.selected:.1f} → {after.selected:.1f} mIoU, few clicks {before.curve:.1f} → "
        f"{after.curve:.1f}, clicks {before.clicks:.2f} → {after.clicks:.2f}; "
        f"{'it serves now' if made.is_promoted else f'worse, so {parent.name} goes on serving'}"
    )
    return made


def _train(settings: Retraining, data: DataSet, parent: ModelVersion, out: Path) -> Path:
    weights = out / "model.safetensors"
    if not weights.is_file():
        config = replace(settings.config, init=str(parent.file), init_prefixes=[""])
        has_automatic = any(file["stage"] == 3 for file in data.manifest["files"])
        photos = data.photos(oversample=settings.oversample if has_automatic else 1)
        trainer = Trainer(config, photos, out)
        ended_by = signal.getsignal(signal.SIGTERM)
        try:
            trainer.run()
        finally:  # the trainer saves and leaves at SIGTERM; what comes after it ends as before
            signal.signal(signal.SIGTERM, ended_by)
        if not weights.is_file():
            raise StateError(f"the training was told to stop at step {trainer.step}; run it again, and it goes on.")
    return weights.resolve()


def _hash_of(model: ModelVersion) -> str:
    return model.sha256 or file_hash(model.file)
