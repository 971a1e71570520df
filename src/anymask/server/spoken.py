"""Prompts with a phrase: it ranks the masks of the clicks, box or mask, or, alone, those of the whole photo."""

from __future__ import annotations

from typing import Any

from anymask.predict.options import AutomaticOptions, preset_for
from anymask.server.schemas import Mask, Prompt
from anymask.server.sessions import Session
from anymask.server.studio import Studio


async def predict_spoken(
    studio: Studio, session: Session, prompts: list[Prompt], multimask: bool | None
) -> list[list[Mask]]:
    """Candidates for each prompt, those with a phrase the most similar first.

    Raises MissingExtraError where the models for words are not installed, BusyError.
    """
    from anymask.text.answer import SHOWN

    studio.words.require()
    pointed = [prompt for prompt in prompts if prompt.is_pointed]
    answers = iter(await studio.predict(session, pointed, multimask))
    whole = await _whole_photo(studio, session) if len(pointed) < len(prompts) else []
    found = [next(answers) if prompt.is_pointed else whole for prompt in prompts]

    def rank() -> list[list[Mask]]:
        ranked = []
        for prompt, masks in zip(prompts, found):
            if prompt.text is not None:
                records = studio.rank(session.picture, [mask.model_dump() for mask in masks], prompt.text)
                masks = [Mask(**record) for record in records[:SHOWN]]
            ranked.append(masks)
        return ranked

    return await studio.in_bulk(rank)


async def _whole_photo(studio: Studio, session: Session) -> list[Mask]:
    from anymask.text.answer import POINTS_PER_SIDE

    options = AutomaticOptions.of(preset_for(session.segmenter), points_per_side=POINTS_PER_SIDE)
    records: list[dict[str, Any]] = []
    async for event in studio.everything(session, options):
        records = event.get("masks", records)
    return [Mask(**{key: record[key] for key in Mask.model_fields if key in record}) for record in records]
