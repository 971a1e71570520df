"""A request with a phrase: which masks there are, and which of them the phrase means."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.core.images import read_image
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.options import preset_for
from anymask.predict.predictor import SamPredictor
from anymask.predict.request import Request, Result, answer
from anymask.text.choice import TextChoice
from anymask.text.clip import ClipEmbedder
from anymask.text.prompts import decode_text
from anymask.text.ranking import rank

SHOWN = 3  # masks of an answer
POINTS_PER_SIDE = 16  # of the automatic masks

Answer = Callable[[SamPredictor, Any, Request], Result]


def text_answerer(text_model: str) -> Answer:
    """Something that answers as `predict.request.answer`, for requests with a phrase.

    A model that was trained with text prompts takes CLIP's vector of the phrase, with clicks if there are any. Else
    the phrase ranks masks: those of the clicks, box or mask, where given, or automatic ones of the whole photo.
    """
    choice = TextChoice(text_model)

    def answer_text(predictor: SamPredictor, source: Any, request: Request) -> Result:
        sam = getattr(predictor.segmenter, "sam", None)
        if choice.is_clip and sam is not None and sam.prompt_encoder.text_embed is not None:
            return _prompted(choice, predictor, source, request)
        if request.points_xy or request.boxes_xyxy or request.mask is not None:
            found = answer(predictor, source, request)
        else:
            found = _automatic(predictor, source)
        return _ranked(choice, found, str(request.text))

    return answer_text


def _automatic(predictor: SamPredictor, source: Any) -> Result:
    started = time.perf_counter()
    image = read_image(source)
    read = time.perf_counter()
    preset = preset_for(predictor.segmenter)
    generator = SamAutomaticMaskGenerator(predictor, points_per_side=POINTS_PER_SIDE, preset=preset)
    records = generator.generate(image)
    if not records:
        raise InputError("no mask was found in this photo; point at something with --point.")
    masks = np.array([record["segmentation"] for record in records])
    iou = np.array([record["predicted_iou"] for record in records])
    seconds = {"read": read - started, "encode": 0.0, "decode": time.perf_counter() - read}
    return Result(image, masks[None], iou[None], seconds)


def _ranked(choice: TextChoice, found: Result, phrase: str) -> Result:
    started = time.perf_counter()
    masks, iou = found.masks[0], found.predicted_iou[0]
    order, similarity = rank(choice.embedder, found.image, masks, phrase)
    order, similarity = order[:SHOWN], similarity[:SHOWN]
    seconds = {**found.seconds, "text": time.perf_counter() - started}
    return replace(
        found, masks=masks[None, order], predicted_iou=iou[None, order], similarity=similarity[None], seconds=seconds
    )


def _prompted(choice: TextChoice, predictor: SamPredictor, source: Any, request: Request) -> Result:
    """Masks of the phrase's vector; similarities are those of the masks with the phrase."""
    if request.boxes_xyxy or request.mask is not None:
        raise InputError(
            "a model with text prompts was trained with clicks beside the phrase, not with boxes and masks."
        )
    started = time.perf_counter()
    image = read_image(source)
    read = time.perf_counter()
    predictor.set_image(image)
    encoded = time.perf_counter()
    points: Any = np.array(request.points_xy, float) if request.points_xy else None
    embedder = choice.embedder
    assert isinstance(embedder, ClipEmbedder)
    vector = embedder.texts([str(request.text)])[0]
    sam = predictor.segmenter.sam
    batch = decode_text(sam, predictor.embedding, vector, points, np.array(request.labels))
    frame = predictor.embedding.frame
    masks = (
        (sam.postprocess_masks(batch.low_res, frame.input_hw, frame.original_hw)[0] > sam.mask_threshold).cpu().numpy()
    )
    iou = np.asarray(batch.predicted_iou[0].cpu())
    seconds = {"read": read - started, "encode": encoded - read, "decode": time.perf_counter() - encoded}
    return _ranked(choice, Result(image, masks[None], iou[None], seconds), str(request.text))
