"""Classical methods that answer clicks and boxes: GrabCut, Felzenszwalb, SLIC, random walker; and finished masks of
any tool from a folder. Each gets what the model gets, nothing more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from anymask.core import rle
from anymask.core.errors import InputError, MissingExtraError, unknown_name
from anymask.evaluate.interactive import ClickRounds, first_clicks, next_click
from anymask.evaluate.metrics import iou_of_candidates

METHODS = ("model", "grabcut", "felzenszwalb", "slic", "random_walker", "folder:DIR")
SEED_PX = 3  # radius of a click as a seed


@dataclass(frozen=True)
class Clicks:
    """A prompt: points (N, 2) xy with labels (N,) 1 or 0, or a box x0, y0, x1, y1 with its last pixels, or both."""

    points_xy: np.ndarray
    labels: np.ndarray
    box_xyxy: tuple[int, int, int, int] | None = None


class ClickMethod(Protocol):
    """A method on one photo. Candidates (M, H, W) bool, the selected one first."""

    def __call__(self, prompt: Clicks) -> np.ndarray:
        """Masks for a prompt."""
        ...


def click_method(name: str, image: np.ndarray, photo: str) -> ClickMethod:
    """A method by name, set up for a photo (H, W, 3) uint8. photo: its name, for masks in a folder."""
    if name.startswith("folder:"):
        return Finished(Path(name.removeprefix("folder:")), photo, image.shape[:2])
    if name == "grabcut":
        return GrabCut(image)
    if name in ("felzenszwalb", "slic"):
        return Segments(image, name)
    if name == "random_walker":
        return RandomWalker(image)
    raise unknown_name("method", name, list(METHODS))


def method_rounds(
    method: ClickMethod, truth: np.ndarray, num_clicks: int, first: str = "center", seed: int = 0
) -> ClickRounds:
    """As `interactive.click_rounds`, for a method that answers one prompt at a time. truth: (P, H, W) bool."""
    selected, oracle = np.zeros((len(truth), num_clicks)), np.zeros(len(truth))
    for i, (mask, start) in enumerate(zip(truth, first_clicks(truth, first, seed))):
        points, labels = [tuple(start)], [1]
        for turn in range(num_clicks):
            candidates = method(Clicks(np.array(points), np.array(labels)))
            ious = iou_of_candidates(candidates[None], mask[None])[0]
            selected[i, turn] = ious[0]
            if turn == 0:
                oracle[i] = ious.max()
            if ious[0] == 1:
                selected[i, turn:] = 1
                break
            xy, label = next_click(candidates[0], mask)
            points.append(xy)
            labels.append(label)
    return ClickRounds(selected, oracle)


class GrabCut:
    """OpenCV's GrabCut, 5 iterations. A box: probable foreground inside, background outside. Clicks: discs of their
    kind; around a foreground click a fifth of the photo's diagonal is probable foreground, the rest probable
    background, and the photo's rim background.
    """

    def __init__(self, image: np.ndarray) -> None:
        self._image = image

    def __call__(self, prompt: Clicks) -> np.ndarray:
        """One mask (1, H, W)."""
        labels: Any = np.full(self._image.shape[:2], cv2.GC_PR_BGD, np.uint8)
        if prompt.box_xyxy is not None:
            x0, y0, x1, y1 = prompt.box_xyxy
            labels[:] = cv2.GC_BGD
            labels[y0 : y1 + 1, x0 : x1 + 1] = cv2.GC_PR_FGD
        else:
            near = int(0.1 * np.hypot(labels.shape[0], labels.shape[1]))
            for (x, y), kind in zip(prompt.points_xy, prompt.labels):
                if kind:
                    cv2.circle(labels, (int(x), int(y)), near, cv2.GC_PR_FGD, -1)
            labels[[0, -1]] = cv2.GC_BGD
            labels[:, [0, -1]] = cv2.GC_BGD
        for (x, y), kind in zip(prompt.points_xy, prompt.labels):
            cv2.circle(labels, (int(x), int(y)), SEED_PX, cv2.GC_FGD if kind else cv2.GC_BGD, -1)
        probable = (labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)
        if (~probable).sum() < 10 or probable.sum() < 10:  # nothing to tell the two colour models apart
            return probable[None]
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        nowhere: Any = None  # the box; the labels say it all
        cv2.grabCut(self._image, labels, nowhere, models[0], models[1], 5, cv2.GC_INIT_WITH_MASK)
        return ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))[None]


class Segments:
    """Segments at three scales; the answer is the union of those with a foreground click, without those with a
    background click. A box: all segments with more than half of their area inside. The middle scale is selected.
    """

    def __init__(self, image: np.ndarray, name: str) -> None:
        skimage = _skimage()
        if name == "felzenszwalb":
            self._maps = [skimage.felzenszwalb(image, scale=s, sigma=0.8, min_size=50) for s in (400, 100, 1600)]
        else:
            self._maps = [skimage.slic(image, n_segments=n, compactness=10, start_label=0) for n in (60, 200, 20)]

    def __call__(self, prompt: Clicks) -> np.ndarray:
        """Three masks (3, H, W)."""
        return np.array([self._answer(labels, prompt) for labels in self._maps])

    def _answer(self, labels: np.ndarray, prompt: Clicks) -> np.ndarray:
        chosen = np.zeros(labels.max() + 1, bool)
        if prompt.box_xyxy is not None:
            x0, y0, x1, y1 = prompt.box_xyxy
            inside = np.bincount(labels[y0 : y1 + 1, x0 : x1 + 1].ravel(), minlength=len(chosen))
            chosen |= 2 * inside > np.bincount(labels.ravel(), minlength=len(chosen))
        for kind in (1, 0):
            for x, y in prompt.points_xy[prompt.labels == kind].astype(int):
                chosen[labels[y, x]] = kind == 1
        return chosen[labels]


class RandomWalker:
    """skimage's random walker from discs at the clicks, or from an ellipse of half the box's size in its middle; the
    photo's rim, or what lies outside the box, is background.
    """

    def __init__(self, image: np.ndarray) -> None:
        self._walk = _skimage().random_walker
        self._image = image.astype(np.float64) / 255

    def __call__(self, prompt: Clicks) -> np.ndarray:
        """One mask (1, H, W)."""
        seeds = np.zeros(self._image.shape[:2], np.uint8)
        points, kinds = prompt.points_xy, prompt.labels
        if prompt.box_xyxy is not None:
            x0, y0, x1, y1 = prompt.box_xyxy
            seeds[:] = 2
            seeds[y0 : y1 + 1, x0 : x1 + 1] = 0
            if not len(points):
                middle, half = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 4, (y1 - y0) // 4)
                cv2.ellipse(seeds, middle, half, 0, 0, 360, 1, -1)
        seeds[[0, -1]] = 2
        seeds[:, [0, -1]] = 2
        for (x, y), kind in zip(points, kinds):
            cv2.circle(seeds, (int(x), int(y)), SEED_PX, 1 if kind else 2, -1)
        if not (seeds == 1).any() or not (seeds == 0).any():
            return (seeds == 1)[None]
        labels = self._walk(self._image, seeds, beta=130, mode="cg_j", prob_tol=1, channel_axis=-1)
        return (np.asarray(labels) == 1)[None]


class Finished:
    """Masks that a tool made of the whole photo: `<photo>.json` in the SA-1B layout. A click takes, of the masks that
    hold all foreground and no background clicks, the one with the highest predicted IoU (or the smallest, where none
    is given); a box the one whose box fits best.
    """

    def __init__(self, folder: Path, photo: str, hw: tuple[int, ...]) -> None:
        file = folder / f"{photo}.json"
        if not file.is_file():
            raise InputError(f"no predictions: {file} is not there.")
        try:
            records = json.loads(file.read_text())["annotations"]
            masks = rle.decode([r["segmentation"] for r in records])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: {error!r}; expected the SA-1B layout with 'annotations'.") from error
        if len(masks) and masks.shape[1:] != hw:
            raise InputError(f"{file}: masks are {masks.shape[1:]}, the photo is {hw} (H, W).")
        scores = np.array([r.get("predicted_iou", -float(m.sum())) for r, m in zip(records, masks)], np.float64)
        if not np.isfinite(scores).all():
            raise InputError(f"{file}: a predicted IoU is NaN or infinite.")
        self._masks, self._scores, self._hw = masks, scores, hw

    def __call__(self, prompt: Clicks) -> np.ndarray:
        """Fitting masks (M, H, W), best first; one empty mask where none fits."""
        empty = np.zeros((1, *self._hw), bool)
        if not len(self._masks):
            return empty
        if prompt.box_xyxy is not None:
            x0, y0, x1, y1 = prompt.box_xyxy
            box = np.zeros(self._hw, bool)
            box[y0 : y1 + 1, x0 : x1 + 1] = True
            fit = iou_of_candidates(self._masks[None], box[None])[0]
            return self._masks[np.argsort(-fit, kind="stable")[:3]]
        x, y = prompt.points_xy.astype(int).T
        fits = (self._masks[:, y, x] == (prompt.labels == 1)).all(axis=1)
        order = [i for i in np.argsort(-self._scores, kind="stable") if fits[i]]
        return self._masks[order] if order else empty


def _skimage() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingExtraError("this method comes with: pip install 'anymask[evaluate]'") from error
    return segmentation
