"""One prompt, one mask: IoU after a centre click or a tight box, oracle and selected (PAPER §7.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from anymask.core import rle
from anymask.core.masks import center_click, mask_boxes
from anymask.data.readers import Photo
from anymask.evaluate.interactive import candidate_ious, click_rounds
from anymask.evaluate.points import photo_at_mask_size
from anymask.predict.predictor import SamPredictor
from anymask.predict.prompts import check_prompts
from anymask.predict.zoom import Zoom

ZERO_SHOT_SETS = ("davis", "nuclei", "cropweed")  # domains of the dev data that training never saw


@dataclass(frozen=True)
class Protocol:
    """Choices of one evaluation; stored beside its numbers.

    min_area_px: smaller masks are skipped (the rule of the dev data). max_masks: masks taken of a photo, evenly
    spread, None for all. max_photos: photos of a set, None for all. clicks: also the IoU after so many clicks, each
    where the mask is most wrong (`interactive`). zoom: look closer at small things (`predict.zoom`).
    """

    min_area_px: int = 100
    max_masks: int | None = None
    max_photos: int | None = None
    clicks: tuple[int, ...] = ()
    zoom: bool = False


@dataclass(frozen=True)
class MaskScore:
    """IoU of one mask: the best of three candidates and the one with the highest predicted IoU.

    prompt: "click", "box", or "clicks 3": there, both are the IoU of the one mask after so many clicks.
    """

    source: str
    photo: str
    prompt: str
    area: int
    oracle: float
    selected: float


def evaluate_photos(
    predictor: SamPredictor,
    photos: Iterable[Photo],
    protocol: Protocol,
    report: Callable[[Photo], None] = lambda photo: None,
) -> list[MaskScore]:
    """Scores of every chosen mask for a centre click and for its tight box."""
    scores: list[MaskScore] = []
    taken: dict[str, int] = {}
    for photo in photos:
        taken[photo.source] = taken.get(photo.source, 0) + 1
        if protocol.max_photos and taken[photo.source] > protocol.max_photos:
            continue
        truth = chosen_masks(photo, protocol)
        if len(truth):
            image = photo_at_mask_size(photo)
            predictor.set_image(image)
            zoom = Zoom(predictor.segmenter, image, predictor.embedding) if protocol.zoom else None
            scores += score_photo(predictor, photo, truth, zoom)
            if protocol.clicks:
                num_clicks = max(protocol.clicks)
                rounds = click_rounds(predictor.segmenter, predictor.embedding, truth, num_clicks, zoom=zoom)
                scores += [
                    MaskScore(photo.source, photo.name, f"clicks {n}", int(mask.sum()), iou, iou)
                    for mask, row in zip(truth, rounds.selected)
                    for n, iou in [(n, float(row[n - 1])) for n in protocol.clicks]
                ]
        report(photo)
    return scores


def chosen_masks(photo: Photo, protocol: Protocol) -> np.ndarray:
    """The masks of a photo that count, (P, H, W) bool."""
    kept = [r for r in photo.rles if rle.area(r) >= protocol.min_area_px]
    if protocol.max_masks and len(kept) > protocol.max_masks:
        at = np.linspace(0, len(kept) - 1, protocol.max_masks).round().astype(int)
        kept = [kept[i] for i in at]
    if not kept:
        return np.zeros((0, *photo.hw), bool)
    return rle.decode(kept)


def score_photo(predictor: SamPredictor, photo: Photo, truth: np.ndarray, zoom: Zoom | None = None) -> list[MaskScore]:
    """Both prompts for every mask (P, H, W) of one photo, which is set; the embedding is shared."""
    clicks = np.array([center_click(mask) for mask in truth], dtype=float)[:, None]
    prompts = {
        "click": {"point_coords": clicks, "point_labels": np.ones(clicks.shape[:2])},
        "box": {"box": np.maximum(mask_boxes(truth).astype(float), 0) + (0, 0, 1e-3, 1e-3)},
    }
    segmenter, embedding = predictor.segmenter, predictor.embedding
    scores = []
    for name, prompt in prompts.items():
        batch = check_prompts(embedding.frame, segmenter.low_res_hw, **prompt).batch
        ious, predicted = candidate_ious(segmenter, embedding, batch, truth, zoom)
        for mask, row, chosen in zip(truth, ious, predicted.argmax(axis=1)):
            area = int(mask.sum())
            scores.append(MaskScore(photo.source, photo.name, name, area, float(row.max()), float(row[chosen])))
    return scores


def summarise(scores: list[MaskScore]) -> dict[str, dict[str, float]]:
    """Per set, then the means over sets with equal weight: `same-domain`, `zero-shot` and `mean`; in percent."""
    table: dict[str, dict[str, float]] = {}
    for source in sorted({s.source for s in scores}):
        row: dict[str, float] = {}
        for prompt in ("click", "box"):
            own = [s for s in scores if s.source == source and s.prompt == prompt]
            row[f"{prompt}_oracle"] = 100 * float(np.mean([s.oracle for s in own]))
            row[f"{prompt}_selected"] = 100 * float(np.mean([s.selected for s in own]))
            row["masks"] = len(own)
        for prompt in sorted({s.prompt for s in scores} - {"click", "box"}):
            own = [s for s in scores if s.source == source and s.prompt == prompt]
            row[prompt.replace(" ", "_")] = 100 * float(np.mean([s.selected for s in own]))
        table[source] = row
    sets = list(table)
    groups = {
        "same-domain": [s for s in sets if s not in ZERO_SHOT_SETS],
        "zero-shot": [s for s in sets if s in ZERO_SHOT_SETS],
        "mean": sets,
    }
    for name, members in groups.items():
        if members:
            keys = table[members[0]].keys()
            table[name] = {k: float(np.mean([table[m][k] for m in members])) for k in keys}
            table[name]["masks"] = sum(table[m]["masks"] for m in members)
    return table
