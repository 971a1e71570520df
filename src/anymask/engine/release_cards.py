"""The data-set card and the annotation card (PAPER §8.3), answered from the store where it knows, by people elsewhere.

What only people can answer stands in a TOML file, a line for each question; open ones are marked in the cards.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError
from anymask.core.files import write_aside
from anymask.engine.corrections import Compared
from anymask.engine.report import Report
from anymask.engine.report_details import Details
from anymask.engine.study import StudyResult

DATASET_CARD, ANNOTATION_CARD = "DATASET_CARD.md", "ANNOTATION_CARD.md"
OPEN = "**To be answered by the publisher.**"


@dataclass(frozen=True)
class Known:
    """What the store and the release know. study: None where there was none."""

    manifest: dict[str, Any]
    report: Report
    details: Details
    study: StudyResult | None


# key in the TOML file → question; grouped by heading
_DATASET: dict[str, dict[str, str]] = {
    "Motivation": {
        "purpose": "For what purpose was the data set made?",
        "creators": "Who made it, on behalf of whom?",
        "funding": "Who paid for it?",
    },
    "Composition": {
        "content": "What do the photos show, and how were they chosen?",
        "sensitive": "Is there anything confidential, offensive or distressing in it?",
        "subpopulations": "Does it name groups of people, or can it be linked to them?",
        "withheld": "Is a part held back, for testing?",
    },
    "Collection": {
        "source": "Where do the photos come from, and under which rights?",
        "timeframe": "When were they taken?",
        "consent": "Do the people in them know, and did they agree?",
        "ethics": "Did anybody review the ethics?",
    },
    "Uses": {
        "uses": "What has it been used for, and what else could it be used for?",
        "misuse": "What should it not be used for?",
    },
    "Distribution": {
        "licence": "Under which licence is it given away, to whom?",
    },
    "Maintenance": {
        "contact": "Who keeps it, and where can a photo be reported for removal?",
        "updates": "Will it be updated, and are older versions kept?",
    },
}
_ANNOTATION: dict[str, dict[str, str]] = {
    "Task": {
        "instructions": "What were annotators told to do?",
        "subjectivity": "Where does the task leave room for opinion?",
    },
    "Annotators": {
        "selection": "How were annotators chosen and trained, and what do they know?",
        "pay": "How were they paid, and what were their conditions?",
        "communication": "How could they ask, and how did they get feedback?",
    },
    "Release": {
        "annotation_limits": "What do the masks not capture?",
    },
}


def write_cards(folder: Path, title: str, known: Known, about: Path) -> int:
    """Write both cards; returns the number of open questions. about: the TOML file, made where there is none.

    Raises InputError for a file that is no TOML, or answers that are no text.
    """
    answers = _read_answers(about)
    dataset = _card(title, "Data-set card", _DATASET, _facts_of_dataset(known), answers)
    annotation = _card(title, "Annotation card", _ANNOTATION, _facts_of_annotation(known), answers)
    for name, text in ((DATASET_CARD, dataset), (ANNOTATION_CARD, annotation)):
        with write_aside(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return dataset.count(OPEN) + annotation.count(OPEN)


def _read_answers(about: Path) -> dict[str, str]:
    questions = {
        key: text for card in (_DATASET, _ANNOTATION) for group in card.values() for key, text in group.items()
    }
    if not about.exists():
        lines = "".join(f'\n# {text}\n{key} = ""\n' for key, text in questions.items())
        with write_aside(about) as part:
            part.write_text("# Answers for the cards; Markdown. Run the release again after changes.\n" + lines)
        return {}
    try:
        answers = tomllib.loads(about.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{about} cannot be read as TOML: {error}") from error
    for key, answer in answers.items():
        if key not in questions:
            raise InputError(f"{about}: there is no question {key!r}. Known: {', '.join(questions)}.")
        if not isinstance(answer, str):
            raise InputError(f"{about}: the answer to {key!r} must be text in quotes, got {type(answer).__name__}.")
    return {key: answer.strip() for key, answer in answers.items() if answer.strip()}


def _card(
    title: str, kind: str, groups: dict[str, dict[str, str]], facts: dict[str, list[str]], answers: dict[str, str]
) -> str:
    parts = [f"# {kind}: {_plain(title)}\n"]
    for heading in dict.fromkeys([*groups, *facts]):
        parts.append(f"## {heading}\n")
        if facts.get(heading):
            parts.append("".join(f"- {fact}\n" for fact in facts[heading]))
        for key, question in groups.get(heading, {}).items():
            parts.append(f"**{question}**\n\n{answers.get(key, OPEN)}\n")
    return "\n".join(parts)


def _facts_of_dataset(known: Known) -> dict[str, list[str]]:
    manifest = known.manifest
    num_photos, num_masks = manifest["photos"], manifest["masks"]
    shown = [shape for shape in known.details.shapes.values() if shape["masks"]]
    measured = sum(shape["masks"] for shape in shown)
    composition = [
        f"{num_photos:,} photos with {num_masks:,} masks, {num_masks / max(1, num_photos):.1f} a photo.",
        f"The short side has at most {manifest['short_side']} pixels; JPEG of quality {manifest['jpeg_quality']}.",
        "Masks of " + ("all stages" if manifest["stage"] is None else f"stage {manifest['stage']}") + " of the data "
        "engine, "
        + ("those that were rejected left out." if manifest["state"] is None else f"{manifest['state']} ones."),
        "Masks have no classes unless a record has a `label`; they may overlap, and not everything has a mask.",
    ]
    if measured:
        size, concavity = (
            sum(shape["masks"] * shape[key]["mean"] for shape in shown) / measured
            for key in ("relative_size", "concavity")
        )
        composition.append(
            f"Mean relative size √(mask area / photo area) {size:.2f}, mean concavity {concavity:.2f}, measured on "
            f"{measured:,} masks of the project at random."
        )
    preprocessing = ["Photos were scaled, and encoded again without EXIF; masks were scaled with them."]
    for what in ("faces", "plates"):
        blurred = manifest["blurred"][what]
        if blurred is None:
            preprocessing.append(f"**{what.capitalize()} were not blurred.**")
        else:
            preprocessing.append(
                f"{what.capitalize()} were blurred where {_plain(blurred['detector'])} found them: "
                f"{blurred['regions']:,} regions on {blurred['photos']:,} photos. A detector misses some."
            )
    left_out = manifest["left_out"]
    preprocessing.append(
        f"Left out: {left_out['photos']:,} photos that could not be read, {left_out['masks']:,} masks that were too "
        "small at this size."
    )
    distribution = [
        f"{len(manifest['shards']):,} tar shards in SA-1B's layout; `manifest.json` names them with hashes, "
        "`sha256sum -c sha256sums.txt` checks them."
    ]
    return {"Composition": composition, "Preprocessing": preprocessing, "Distribution": distribution}


def _facts_of_annotation(known: Known) -> dict[str, list[str]]:
    task = [
        f"Round {stage.round}, stage {stage.stage} ({stage.stage_name}): {stage.num_masks:,} masks on "
        f"{stage.num_images:,} photos, {stage.num_by_people:,} by people, {stage.num_by_models:,} by models, "
        f"{stage.num_imported:,} imported"
        + ("." if stage.seconds_per_mask is None else f"; people took {stage.seconds_per_mask:.1f} s a mask.")
        for stage in known.report.stages
    ]
    people = known.details.people
    hours = sum(person.seconds for person in people) / 3600
    annotators = [f"{len(people):,} people took part; {hours:,.1f} hours of work were recorded."]
    platform = [f"Made with {_plain(known.manifest['made_with'])}: clicks, boxes and a brush in the browser."]
    if known.details.models:
        served = ", ".join(_plain(model.name) for model in known.details.models)
        platform.append(f"Model versions, each trained on what was there before it: {served}.")
    return {
        "Task": task,
        "Annotators": annotators,
        "Platform": platform,
        "Analysis and evaluation": _evaluation(known),
    }


def _evaluation(known: Known) -> list[str]:
    facts = []
    num_reviews = sum(num for num, _ in known.report.reviews.values())
    if num_reviews:
        each = ", ".join(f"{num:,} {action}" for action, (num, _) in sorted(known.report.reviews.items()))
        facts.append(f"{num_reviews:,} second looks at single masks: {each}.")
    if known.study is not None and known.study.compared.num_pairs:
        low, high = known.study.intervals[0.90]
        facts.append(
            f"Quality study: on {known.study.num_done:,} photos at random people corrected every automatic mask. "
            f"{_shares(known.study.compared)} (95 % interval of the first: {low:.1%} to {high:.1%})."
        )
    for stage, compared in known.details.compared.items():
        if compared.num_pairs:
            facts.append(f"All masks of models in stage {stage} that people looked at: {_shares(compared)}.")
    return facts or ["No automatic mask has been compared with a correction by people."]


def _shares(compared: Compared) -> str:
    return (
        f"of {compared.num_pairs:,} pairs of automatic and corrected mask {compared.share_above(0.9):.1%} have an IoU "
        f"above 0.90, {compared.share_above(0.75):.1%} above 0.75; {compared.num_rejected:,} were rejected"
    )


def _plain(text: str) -> str:
    """A name inside Markdown: nothing of it is markup."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
