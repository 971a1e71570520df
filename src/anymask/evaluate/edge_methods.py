"""Edge maps (H, W) float32 in 0 … 1 from photos: masks (PAPER §7.3), Canny, Sobel, Felzenszwalb, or a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anymask.core.arrays import as_numpy
from anymask.core.errors import InputError, MissingExtraError, OptionError, unknown_name
from anymask.core.geometry import to_model_xy
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.predict.filters import nms
from anymask.predict.grid import build_point_grid
from anymask.predict.patches import PatchUpscaler

EdgeMethod = Callable[[np.ndarray], np.ndarray]
METHODS = ("model", "canny", "sobel", "felzenszwalb", "folder:DIR")
_FAR = 5.0  # logits this far under the threshold have no slope that matters: a probability under 0.007


@dataclass(frozen=True)
class MaskEdges:
    """How masks become edges; the defaults are the paper's (D.2), where it says something.

    points_per_side: 16, three masks each (paper). box_nms_thresh: §10.2, not in the paper. thin_radius_px: of the final
    non-maximum suppression; 0 leaves it out. aggregate: of the masks' slopes, "max" (paper) or "sum": what many masks
    end at is an edge. weigh_by_iou: each mask counts with its predicted IoU (paper: no filter, no weight). low_res:
    slopes of the low-resolution maps, scaled up once, holes included; else of each mask at the photo's size, outer
    boundary only (paper). contrast: exponent of the rescaled map; below 1 lifts faint edges. photo_share: exponent of
    the photo's own gradient, which is multiplied in; 0 is none (paper).
    """

    points_per_side: int = 16
    box_nms_thresh: float = 0.7
    thin_radius_px: int = 1
    aggregate: str = "max"
    weigh_by_iou: bool = False
    low_res: bool = False
    contrast: float = 1.0
    photo_share: float = 0.0


LITE_EDGES = MaskEdges(aggregate="sum", weigh_by_iou=True, low_res=True, contrast=0.5, photo_share=0.5)
"""For `lite`, whose outlines are coarse (docs/log.md)."""


def mask_edges(segmenter: Segmenter, image: np.ndarray, options: MaskEdges = MaskEdges()) -> np.ndarray:
    """Edges of a photo (H, W, 3) uint8 from masks at a grid of points: no filter, duplicates removed, the slope of
    each mask's probability along its outline, the greatest of all masks or their sum, rescaled and thinned.
    """
    if options.aggregate not in ("max", "sum"):
        raise OptionError(f"aggregate is max or sum, got {options.aggregate!r}.")
    hw = image.shape[0], image.shape[1]
    embedding = segmenter.encode([image])[0]
    low_res, predicted = _grid_masks(segmenter, embedding, options.points_per_side)
    boxes = np.array([_box(mask > segmenter.mask_threshold) for mask in low_res])
    kept = nms(boxes, predicted, options.box_nms_thresh)
    weights = np.clip(predicted, 0, 1) if options.weigh_by_iou else np.ones_like(predicted)
    slopes = _low_res_slopes if options.low_res else _photo_slopes
    add = np.maximum if options.aggregate == "max" else np.add
    edges = rescale(slopes(segmenter, embedding, low_res[kept], weights[kept], hw, add)) ** options.contrast
    if options.photo_share:
        edges = edges * colour_slope(image) ** options.photo_share
    return thin_edges(rescale(edges), options.thin_radius_px)


def _grid_masks(segmenter: Segmenter, embedding: Embedding, points_per_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (M, 4h, 4w) float16 and predicted IoU (M,) of three masks for each point of a grid."""
    height, width = embedding.frame.original_hw
    points = build_point_grid(points_per_side) * (width, height)
    in_frame = to_model_xy(points, embedding.frame)[:, None].astype(np.float32)
    logits, scores = [], []
    for start in range(0, len(points), 16):
        block = in_frame[start : start + 16]
        answer = segmenter.decode(embedding, PromptBatch(block, np.ones((len(block), 1), np.float32)), True)
        logits.append(as_numpy(answer.low_res).reshape(-1, *answer.low_res.shape[-2:]).astype(np.float16))
        scores.append(as_numpy(answer.predicted_iou).ravel())
    predicted = np.concatenate(scores)
    if not np.isfinite(predicted).all():
        raise InputError("the model answered with NaN or infinity; the weights or the precision are not usable.")
    return np.concatenate(logits), predicted


def _photo_slopes(
    segmenter: Segmenter, embedding: Embedding, low_res: np.ndarray, weights: np.ndarray, hw: tuple[int, int], add: Any
) -> np.ndarray:
    """Slopes of all masks together, each mask brought to the photo's size (H, W) first."""
    upscaler = PatchUpscaler(embedding.frame, (low_res.shape[1], low_res.shape[2]))
    edges = np.zeros(hw, np.float32)
    for mask, weight in zip(low_res, weights):
        patch = upscaler.above(mask.astype(np.float32), segmenter.mask_threshold - _FAR)
        if not patch.values.size:
            continue
        values = np.ascontiguousarray(patch.values)
        place = edges[patch.top : patch.top + values.shape[0], patch.left : patch.left + values.shape[1]]
        add(place, weight * outline_slope(values, segmenter.mask_threshold), out=place)
    return edges


def _low_res_slopes(
    segmenter: Segmenter, embedding: Embedding, low_res: np.ndarray, weights: np.ndarray, hw: tuple[int, int], add: Any
) -> np.ndarray:
    """The same on the low-resolution maps, the result brought to the photo's size."""
    scale = low_res.shape[1] / embedding.frame.side
    height, width = (max(1, round(v * scale)) for v in embedding.frame.input_hw)
    edges, square = np.zeros((height, width), np.float32), np.ones((3, 3), np.uint8)
    for mask, weight in zip(low_res, weights):
        logits = mask[:height, :width].astype(np.float32)
        outline = cv2.morphologyEx((logits > segmenter.mask_threshold).view(np.uint8), cv2.MORPH_GRADIENT, square)
        add(edges, weight * sobel_magnitude(_sigmoid(logits)) * outline, out=edges)
    return np.asarray(cv2.resize(edges, hw[::-1], interpolation=cv2.INTER_CUBIC)).clip(0)


def colour_slope(image: np.ndarray, sigma_px: float = 1.5) -> np.ndarray:
    """Length of the gradient of a smoothed photo's Lab colours (H, W), 1 for the steepest hundredth, at least 0.02."""
    lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), sigma_px)
    slope = np.sqrt(sum(sobel_magnitude(channel) ** 2 for channel in cv2.split(lab)))
    return np.asarray((slope / max(float(np.percentile(slope, 99)), 1e-6)).clip(0.02, 1), np.float32)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def outline_slope(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Sobel magnitude (H, W) of a mask's probability, zero off its outer boundary: holes do not count."""
    inside = (logits > threshold).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(inside), contours, -1, 1, cv2.FILLED)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    outline = cv2.morphologyEx(filled, cv2.MORPH_GRADIENT, cross)
    return sobel_magnitude(_sigmoid(logits)) * outline


def sobel_magnitude(values: np.ndarray) -> np.ndarray:
    """Length of the Sobel gradient of (H, W) float32; the border repeats its pixels."""
    dx = cv2.Sobel(values, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(values, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.magnitude(dx, dy))


def rescale(edges: np.ndarray) -> np.ndarray:
    """Linear to 0 … 1; a map without any contrast stays zero."""
    low, high = float(edges.min()), float(edges.max())
    return ((edges - low) / (high - low)).astype(np.float32) if high > low else np.zeros_like(edges, np.float32)


def thin_edges(edges: np.ndarray, radius_px: int = 1) -> np.ndarray:
    """Edges (H, W) that are not the greatest across their own direction set to zero.

    The direction is that of the smoothed map's curvature, as for structured edges (Dollár and Zitnick 2015).
    """
    if radius_px <= 0 or not edges.any():
        return edges
    smooth = cv2.GaussianBlur(edges, (0, 0), 2)
    dxx, dyy = cv2.Sobel(smooth, cv2.CV_32F, 2, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 2)
    dxy = cv2.Sobel(smooth, cv2.CV_32F, 1, 1)
    across = 0.5 * np.arctan2(2 * dxy, dxx - dyy)  # axis of the greatest second derivative …
    across[dxx + dyy <= 0] += np.pi / 2  # … or of the least, where that is the stronger one, as on a ridge
    y, x = np.mgrid[: edges.shape[0], : edges.shape[1]].astype(np.float32)
    kept = edges.copy()
    for step in (s for r in range(1, radius_px + 1) for s in (-r, r)):
        at_x, at_y = (x + step * np.cos(across)).astype(np.float32), (y + step * np.sin(across)).astype(np.float32)
        kept[edges * 1.01 < cv2.remap(edges, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)] = 0
    return kept


def canny_edges(image: np.ndarray, sigma_px: float = 2.0, num_levels: int = 64, low_share: float = 0.4) -> np.ndarray:
    """The highest threshold at which OpenCV's Canny still draws a pixel, in shares of the highest used.

    sigma_px: smoothing before; low_share: lower threshold of the hysteresis, in shares of the upper (MATLAB's 0.4).
    """
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), sigma_px)
    scale = 16.0  # gradients as 16-bit integers, which Canny takes, with room for faint ones
    dx = np.clip(cv2.Sobel(gray, cv2.CV_32F, 1, 0) * scale, -32768, 32767).astype(np.int16)
    dy = np.clip(cv2.Sobel(gray, cv2.CV_32F, 0, 1) * scale, -32768, 32767).astype(np.int16)
    top = float(np.hypot(dx.astype(np.float32), dy.astype(np.float32)).max())
    edges = np.zeros(gray.shape, np.float32)
    if not top:
        return edges
    highest = min(top, 320 * scale)  # one scale for all photos, or thresholds would not mean the same
    for level in range(1, num_levels + 1):
        upper = 320 * scale * level / num_levels
        if upper > highest:
            break
        drawn = cv2.Canny(dx, dy, low_share * upper, upper, L2gradient=True) > 0
        edges[drawn] = level / num_levels
    return edges


def sobel_edges(image: np.ndarray, sigma_px: float = 1.0) -> np.ndarray:
    """Thinned Sobel magnitude of the smoothed gray photo, in shares of the largest possible."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return thin_edges(np.clip(sobel_magnitude(cv2.GaussianBlur(gray, (0, 0), sigma_px)) / 2, 0, 1))


def felzenszwalb_edges(image: np.ndarray, num_scales: int = 12) -> np.ndarray:
    """Share of scales, 50 to 5000, at which Felzenszwalb and Huttenlocher's segments have a boundary at a pixel."""
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise MissingExtraError("Felzenszwalb's segments come with: pip install 'anymask[evaluate]'") from error
    from anymask.evaluate.boundaries import boundary_of_labels

    scales = np.geomspace(50, 5000, num_scales)
    maps = [boundary_of_labels(felzenszwalb(image, scale=s, sigma=0.8, min_size=50)) for s in scales]
    return np.asarray(np.mean(maps, axis=0, dtype=np.float32))


def read_edge_map(path: Path) -> np.ndarray:
    """A PNG (H, W) of 8 or 16 bits as float64 in 0 … 1: a threshold may fall right on a level."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise InputError(f"{path} cannot be read as a picture; write the map again.")
    if values.ndim == 3:
        values = values[..., :3]
        if not (values == values[..., :1]).all():
            raise InputError(f"{path} is in colour; an edge map is one gray channel of 8 or 16 bits.")
        values = values[..., 0]
    if values.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} is of type {values.dtype}; an edge map is PNG of 8 or 16 bits.")
    return np.asarray(values / (255.0 if values.dtype == np.uint8 else 65535.0))


def edge_method(name: str, segmenter: Callable[[], Segmenter], options: MaskEdges) -> EdgeMethod:
    """A method by name; `folder:DIR` is not one, it reads maps instead of photos."""
    methods: dict[str, EdgeMethod] = {
        "canny": canny_edges,
        "sobel": sobel_edges,
        "felzenszwalb": felzenszwalb_edges,
    }
    if name == "model":
        loaded = segmenter()
        return lambda image: mask_edges(loaded, image, options)
    if name not in methods:
        raise unknown_name("edge method", name, list(METHODS))
    return methods[name]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 with x1, y1 after the last cell; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
