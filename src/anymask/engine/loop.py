"""The whole loop, unattended: stage after stage, with a retraining after each; the annotator is simulated (PAPER §4).

    photos ─→ 1 clicks ─→ retrain ─→ detector ─→ 2 prefill, clicks ─→ retrain ─→ 3 generator ─→ retrain ─→ gain

What is done is known from the store (rounds, tasks, versions) and from files that are written as a whole, so a run that
was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from anymask.core.errors import OptionError, StateError
from anymask.engine.annotator import SimulatedAnnotator
from anymask.engine.automatic import automatic_here, begin_automatic, generator_options
from anymask.engine.costs import spending
from anymask.engine.detector import load_detector, save_detector
from anymask.engine.detector_training import DetectorRecipe, stage_one_boxes, train_detector
from anymask.engine.models import ModelVersion, file_hash, first_version, load_version, serving_version, versions
from anymask.engine.prefill import Prefiller, PrefillRules
from anymask.engine.records import Round
from anymask.engine.retrain import Retraining, retrain
from anymask.engine.simulated_clicks import Hand
from anymask.engine.stages import PREFILL, WorkedOff, begin_stage, find_round, remaining_images
from anymask.engine.store import Store
from anymask.engine.truth import Truth
from anymask.predict.segmenter import TorchSegmenter
from anymask.train.cache import encoder_key

STAGES = (1, 2, 3)


@dataclass(frozen=True)
class LoopPlan:
    """stages: in this order, each with a retraining. num_photos: of each stage. truth: what the annotator knows.

    automatic: works off a round of stage 3 that has begun; by default in this process. generator, prefill: options that
    differ from those that suit the model. last: the retraining after the last stage, where that is another.
    """

    stages: Sequence[int]
    num_photos: Sequence[int]
    truth: Truth
    retraining: Retraining
    hand: Hand = field(default_factory=Hand)
    detector: DetectorRecipe = field(default_factory=DetectorRecipe)
    prefill: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    automatic: Callable[[Store, int], Any] | None = None
    last: Retraining | None = None

    def __post_init__(self) -> None:
        if not self.stages or set(self.stages) - set(STAGES):
            raise OptionError(f"stages are 1, 2 and 3, got {', '.join(map(str, self.stages)) or 'none'}.")
        if len(self.num_photos) != len(self.stages) or min(self.num_photos) < 1:
            raise OptionError(f"give a number of photos, 1 or more, for each of the {len(self.stages)} stages.")


def run_loop(
    store: Store, project_id: int, plan: LoopPlan, say: Callable[[str], None] = lambda text: None
) -> list[ModelVersion]:
    """Do what is left of the plan; returns the versions it made. Call it again after a stop.

    Raises StateError where no photo is left for a stage.
    """
    first_version(store, project_id)
    for step, (stage, num_photos) in enumerate(zip(plan.stages, plan.num_photos), 1):
        made = _made_in(store, project_id, step)
        if made is None:
            say(f"step {step}: stage {stage}")
            _Step(store, project_id, plan, step, num_photos, say).do(stage)
            last = plan.last if step == len(plan.stages) else None
            how = last or plan.retraining
            retrain(store, project_id, replace(how, facts={**how.facts, "step": step, "stage": stage}), say)
    return [v for v in versions(store, project_id) if "step" in v.facts]


def _made_in(store: Store, project_id: int, step: int) -> ModelVersion | None:
    """The version of a step that is done."""
    found = [v for v in versions(store, project_id) if v.facts.get("step") == step]
    return found[0] if found else None


@dataclass(frozen=True)
class _Step:
    store: Store
    project_id: int
    plan: LoopPlan
    step: int
    num_photos: int
    say: Callable[[str], None]

    def do(self, stage: int) -> None:
        """Masks of one stage."""
        model = serving_version(self.store, self.project_id)
        assert model is not None
        segmenter = load_version(model)
        begun = find_round(self.store, self.project_id, step=self.step)
        {1: self._manual, 2: self._semi, 3: self._automatic}[stage](begun, model, segmenter)

    def _manual(self, begun: Round | None, model: ModelVersion, segmenter: TorchSegmenter) -> None:
        if begun is None:
            facts = {"step": self.step, "hand": asdict(self.plan.hand)}
            begin_stage(self.store, self.project_id, 1, self._photos(True), model_version_id=model.id, facts=facts)
        self._annotate(model, segmenter)

    def _semi(self, begun: Round | None, model: ModelVersion, segmenter: TorchSegmenter) -> None:
        file = self.plan.retraining.work / "detectors" / f"step{self.step}.safetensors"
        key = encoder_key(segmenter.sam)
        if not file.is_file():
            data = stage_one_boxes(self.store, self.project_id)
            with spending(self.store, self.project_id, "detector", len(data.image_ids)):
                trained, facts = train_detector(self.store, segmenter, data, self.plan.detector, self.say)
            save_detector(trained, file, {**facts, "model_version": model.name})
        rules = PrefillRules.for_model(segmenter, **self.plan.prefill)
        filler = Prefiller(self.store, segmenter, load_detector(file, key), rules, model.id)
        if begun is None:
            facts = {"step": self.step, **filler.facts(), "detector": file_hash(file), "hand": asdict(self.plan.hand)}
            photos = self._photos(True)
            begin_stage(self.store, self.project_id, 2, photos, PREFILL, model_version_id=model.id, facts=facts)
        self._tell(filler.work(self.project_id, self.say))
        self._annotate(model, segmenter)

    def _automatic(self, begun: Round | None, model: ModelVersion, segmenter: TorchSegmenter) -> None:
        if begun is None:
            options = generator_options(segmenter, **self.plan.generator)
            begin_automatic(self.store, self.project_id, self._photos(False), options, model.id, step=self.step)
        if self.plan.automatic is not None:
            self.plan.automatic(self.store, self.project_id)
        else:
            self._tell(automatic_here(self.store, self.project_id, "generator", self.say))

    def _annotate(self, model: ModelVersion, segmenter: TorchSegmenter) -> None:
        person = SimulatedAnnotator(
            self.store, segmenter, self.plan.truth, hand=self.plan.hand, model_version_id=model.id
        )
        self._tell(person.work(self.project_id, self.say))

    def _tell(self, done: WorkedOff) -> None:
        for place, why in done.skipped:
            self.say(f"{place} was left out: {why}")

    def _photos(self, with_truth: bool) -> list[int]:
        """The next photos without masks, for people those with ground truth."""
        left = remaining_images(self.store, self.project_id)
        if with_truth:
            left = [i for i in left if self.store.image(i).sha256 in self.plan.truth.photos]
        if not left:
            raise StateError(f"no photo without masks is left for step {self.step}; add photos: anymask engine add.")
        return left[: self.num_photos]
