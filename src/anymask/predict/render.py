"""Pictures for people: masks over the photo with outlines, clicks, boxes and labels, and sheets of pictures.

All shapes are drawn from signed distances in pixels (negative inside, like a map of heights), which gives
smooth, antialiased edges at every size. Sizes of lines, clicks and letters follow the size of the photo.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anymask.core.errors import InputError, OptionError
from anymask.core.masks import mask_boxes

Colour = tuple[int, int, int]

# Distinguishable beside each other and over photos, also with red-green blindness for the first four.
COLOURS: tuple[Colour, ...] = (
    (30, 136, 255),  # azure
    (255, 152, 0),  # orange
    (190, 80, 240),  # violet
    (0, 190, 165),  # teal
    (255, 60, 120),  # pink
    (150, 205, 40),  # lime
    (255, 205, 30),  # yellow
    (100, 90, 235),  # indigo
    (70, 205, 250),  # sky
    (225, 90, 50),  # rust
    (40, 165, 85),  # green
    (215, 150, 175),  # rose
)
WHITE: Colour = (255, 255, 255)
_ADD: Colour = (24, 170, 85)
_SUBTRACT: Colour = (226, 48, 58)
_BOX: Colour = (255, 205, 30)
_INK: Colour = (28, 30, 34)
_PAPER: Colour = (250, 250, 251)
_FILL_ALPHA = 0.42


def colour_of(index: int) -> Colour:
    """Colour of the mask at this position: twelve chosen ones, then hues by the golden angle."""
    if index < len(COLOURS):
        return COLOURS[index]
    hue = (index * 0.618034) % 1.0  # the golden ratio spreads any number of hues evenly
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay(
    image: np.ndarray,
    masks: np.ndarray | None = None,
    *,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    titles: Sequence[str] | None = None,
    colours: Sequence[Colour] | None = None,
) -> np.ndarray:
    """The photo with masks, prompts and labels drawn on it: a new (H, W, 3) uint8.

    image: (H, W, 3) uint8 RGB. masks: (M, H, W) bool; large ones are painted first, so small ones stay
    visible.
    points: (N, 2) xy in pixels with labels (N,), 1 adds and 0 subtracts (all 1 when left out).
    boxes: (K, 4) xyxy in pixels. titles: M short texts, such as the predicted IoU, in a tag at each mask.
    colours: M colours instead of the standard ones.

    Raises InputError where shapes or lengths do not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f"expected an image (H, W, 3) uint8, got shape {image.shape} {image.dtype}.")
    hw = image.shape[:2]
    masks = np.zeros((0, *hw), dtype=bool) if masks is None else np.asarray(masks)
    if masks.ndim != 3 or masks.shape[1:] != hw or masks.dtype != bool:
        raise InputError(f"expected masks (M, {hw[0]}, {hw[1]}) bool, got shape {masks.shape} {masks.dtype}.")
    points_xy = _rows(points, 2, "points")
    signs = np.ones(len(points_xy)) if labels is None else np.asarray(labels).reshape(-1)
    boxes_xyxy = _rows(boxes, 4, "boxes")
    colours = colours or [colour_of(i) for i in range(len(masks))]
    for name, given, wanted in (
        ("labels", len(signs), len(points_xy)),
        ("titles", len(masks) if titles is None else len(titles), len(masks)),
        ("colours", len(colours), len(masks)),
    ):
        if given != wanted:
            raise InputError(f"expected {wanted} {name}, got {given}.")

    canvas = image.copy()
    line_px = max(2.0, max(hw) / 600)
    extents = mask_boxes(masks)
    areas = np.count_nonzero(masks, axis=(1, 2))
    large_first = [i for i in np.argsort(-areas, kind="stable") if areas[i] > 0]
    for i in large_first:
        _tint(canvas, image, masks[i], extents[i], colours[i])
    for i in large_first:
        _outline(canvas, masks[i], extents[i], colours[i], line_px)
    for box in boxes_xyxy:
        _draw_box(canvas, box, line_px)
    for xy, sign in zip(points_xy, signs):
        _draw_click(canvas, xy, adds=sign > 0)
    if titles is not None:
        _draw_tags(canvas, masks, extents, titles, colours)
    return canvas


def contact_sheet(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 4,
    *,
    tile_px: int = 480,
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 side by side on white, each fitted into its tile, with a title below.

    columns: pictures in a row. tile_px: width of a tile; its height is that of the tallest picture, at most
    1.5 times the width. Gives (H', W', 3) uint8.
    """
    if not images:
        raise InputError("a sheet needs at least one picture, got none.")
    if columns < 1:
        raise OptionError(f"columns must be 1 or more, got {columns}.")
    if titles is not None and len(titles) != len(images):
        raise InputError(f"expected {len(images)} titles, got {len(titles)}.")
    tiles = [_fit(image, tile_px, round(tile_px * 1.5)) for image in images]
    columns = min(columns, len(tiles))
    gap = max(8, tile_px // 24)
    font_px = max(10, round(tile_px / 22))
    text_px = round(font_px * 2) if titles else 0
    tile_h = max(tile.shape[0] for tile in tiles)
    rows = math.ceil(len(tiles) / columns)
    height = gap + rows * (tile_h + text_px + gap)
    sheet = np.full((height, gap + columns * (tile_px + gap), 3), _PAPER, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        h, w = tile.shape[:2]
        left = gap + (i % columns) * (tile_px + gap)
        top = gap + (i // columns) * (tile_h + text_px + gap)
        y, x = top + (tile_h - h) // 2, left + (tile_px - w) // 2
        sheet[y : y + h, x : x + w] = tile
    if titles:
        page = Image.fromarray(sheet)
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(font_px)
        for i, title in enumerate(titles):
            middle = gap + (i % columns) * (tile_px + gap) + tile_px / 2
            top = gap + (i // columns) * (tile_h + text_px + gap) + tile_h
            text = _shorten(title, font, tile_px)
            draw.text((middle, top + text_px * 0.52), text, fill=_INK, font=font, anchor="mm")
        sheet = np.array(page)
    return sheet


def candidates_sheet(
    image: np.ndarray,
    masks: np.ndarray,
    ious: Any,
    *,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    columns: int = 4,
    tile_px: int = 480,
) -> np.ndarray:
    """The photo with its prompt beside every candidate mask (M, H, W) bool, titled with the predicted IoU
    (M,).

    The candidate with the highest predicted IoU is named best. Gives (H', W', 3) uint8.
    """
    ious = np.asarray(ious, dtype=float).reshape(-1)
    if len(ious) != len(masks):
        raise InputError(f"expected one predicted IoU for each of {len(masks)} masks, got {len(ious)}.")
    prompt = {"points": points, "labels": labels, "boxes": boxes}
    pictures, titles = [overlay(image, **prompt)], ["photo and prompt"]
    for i, (mask, iou) in enumerate(zip(masks, ious)):
        pictures.append(overlay(image, mask[None], colours=[colour_of(i)], **prompt))
        best = "best, " if len(ious) > 1 and i == int(ious.argmax()) else ""
        titles.append(f"mask {i + 1}: {best}predicted IoU {iou:.2f}")
    return contact_sheet(pictures, titles, columns, tile_px=tile_px)


def _tint(
    canvas: np.ndarray, image: np.ndarray, mask: np.ndarray, extent: np.ndarray, colour: Colour
) -> None:
    """The photo seen through the mask's colour; not what is on the canvas, so that tints never mix to mud."""
    y, x = _window(canvas, *extent)
    levels = np.arange(256)[:, None] * (1 - _FILL_ALPHA) + np.array(colour) * _FILL_ALPHA  # (256, 3)
    tinted = cv2.LUT(np.ascontiguousarray(image[y, x]), np.rint(levels).astype(np.uint8)[:, None])
    np.copyto(canvas[y, x], tinted, where=mask[y, x][..., None])


def _outline(
    canvas: np.ndarray, mask: np.ndarray, extent: np.ndarray, colour: Colour, line_px: float
) -> None:
    """A coloured line along the inner edge of a mask, and a thinner white one outside it."""
    white_px = line_px * 0.6
    margin = math.ceil(white_px) + 3
    y, x = _window(canvas, extent[0] - margin, extent[1] - margin, extent[2] + margin, extent[3] + margin)
    inside = np.pad(mask[y, x], 1, mode="edge").astype(np.uint8)  # no outline where the photo cuts the object
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    depth -= np.sign(depth) * 0.5  # the edge lies between two pixels
    distance = -cv2.GaussianBlur(depth, (0, 0), 0.8 + line_px / 4)[
        1:-1, 1:-1
    ]  # rounds the staircase of pixels
    region = canvas[y, x]
    _blend(region, WHITE, 0.95 * _cover(np.abs(distance - white_px / 2) - white_px / 2))
    _blend(region, colour, _cover(np.abs(distance + line_px / 2) - line_px / 2))


def _draw_box(canvas: np.ndarray, box_xyxy: np.ndarray, line_px: float) -> None:
    x0, y0, x1, y1 = np.sort(box_xyxy.reshape(2, 2), axis=0).reshape(-1)
    margin = 2 * line_px + 2
    y, x = _window(canvas, x0 - margin, y0 - margin, x1 + margin, y1 + margin)
    if y.stop <= y.start or x.stop <= x.start:
        return  # outside the photo
    down, right = np.ogrid[y, x]
    outside = _rectangle(right, down, (x0, y0, x1, y1), radius=0)
    region = canvas[y, x]
    line = np.abs(outside + 0.5 - line_px / 2) - line_px / 2  # starts at a pixel's edge, so it stays crisp
    _blend(region, _INK, 0.6 * _cover(line - 1))
    _blend(region, _BOX, _cover(line))


def _draw_click(canvas: np.ndarray, xy: np.ndarray, adds: bool) -> None:
    """A disc with + or - in a white ring, over a soft shadow."""
    radius = max(6.0, max(canvas.shape[:2]) / 75)
    ring, shadow = radius * 1.28, radius * 1.7
    y, x = _window(canvas, *(xy - shadow - 1), *(xy + shadow + 1))
    if y.stop <= y.start or x.stop <= x.start:
        return  # outside the photo
    down, right = np.ogrid[y, x]
    dx, dy = right - xy[0], down - xy[1]
    distance = np.hypot(dx, dy)
    arm, half = radius * 0.56, radius * 0.14
    sign = _rectangle(dx, dy, (-arm, -half, arm, half), half * 0.6)
    if adds:
        sign = np.minimum(sign, _rectangle(dx, dy, (-half, -arm, half, arm), half * 0.6))
    region = canvas[y, x]
    _blend(region, _INK, 0.45 * np.clip((shadow - distance) / (shadow - radius), 0, 1))
    _blend(region, WHITE, _cover(distance - ring))
    _blend(region, _ADD if adds else _SUBTRACT, _cover(distance - radius))
    _blend(region, WHITE, _cover(sign))


def _draw_tags(
    canvas: np.ndarray,
    masks: np.ndarray,
    extents: np.ndarray,
    titles: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    """A dark tag with a dot of the mask's colour above each mask, moved so that tags do not overlap."""
    height, width = canvas.shape[:2]
    font_px = max(11, round(max(height, width) / 52))
    font = ImageFont.load_default(font_px)
    tag_h, pad = round(font_px * 1.75), round(font_px * 0.6)
    dot = font_px * 0.36
    taken: list[tuple[int, int, int, int]] = []
    for mask, extent, title, colour in zip(masks, extents, titles, colours):
        if not title or not mask.any():
            continue
        text = _shorten(title, font, width - 3 * pad - 2 * dot)
        tag_w = round(font.getlength(text) + 2.5 * pad + 2 * dot)
        top_x = int(np.flatnonzero(mask[extent[1]]).mean())
        x = min(max(top_x - tag_w // 2, 2), max(2, width - tag_w - 2))
        y = min(max(int(extent[1]) - tag_h - pad // 2, 2), max(2, height - tag_h - 2))
        y = _free_row(taken, x, y, tag_w, tag_h, height)
        taken.append((x, y, x + tag_w, y + tag_h))
        rows, cols = _window(canvas, x - 1, y - 1, x + tag_w + 1, y + tag_h + 1)
        down, right = np.ogrid[rows, cols]
        region = canvas[rows, cols]
        tag = _rectangle(right, down, (x, y, x + tag_w - 1, y + tag_h - 1), radius=tag_h * 0.3)
        _blend(region, _INK, 0.86 * _cover(tag))
        centre_x, centre_y = x + pad + dot, y + (tag_h - 1) / 2
        _blend(region, colour, _cover(np.hypot(right - centre_x, down - centre_y) - dot))
        words = Image.new("L", (region.shape[1], region.shape[0]), 0)
        at = (centre_x + dot + pad * 0.5 - cols.start, y + tag_h * 0.5 - rows.start)
        ImageDraw.Draw(words).text(at, text, fill=255, font=font, anchor="lm")
        _blend(region, WHITE, np.asarray(words) / 255.0)


def _free_row(taken: list[tuple[int, int, int, int]], x: int, y: int, w: int, h: int, height: int) -> int:
    """The nearest row at or below `y`, then above, where a tag overlaps no other; `y` when there is none."""

    def is_free(row: int) -> bool:
        return all(x + w <= a or c <= x or row + h <= b or d <= row for a, b, c, d in taken)

    below = range(y, height - h - 1, max(1, h // 3))
    above = range(y, 1, -max(1, h // 3))
    return next((row for row in (*below, *above) if is_free(row)), y)


def _blend(region: np.ndarray, colour: Colour, alpha: np.ndarray) -> None:
    """Paint `colour` over a view of the canvas with opacity (H, W) 0 … 1."""
    at = np.nonzero(alpha)
    below = region[at].astype(np.float32)
    weight = alpha[at].astype(np.float32)[:, None]
    region[at] = (below + (np.asarray(colour, dtype=np.float32) - below) * weight + 0.5).astype(np.uint8)


def _cover(distance: np.ndarray) -> np.ndarray:
    """How much of a pixel lies inside a shape, from the signed distance of its centre."""
    return np.clip(0.5 - distance, 0, 1)


def _rectangle(
    right: np.ndarray, down: np.ndarray, xyxy: tuple[float, float, float, float], radius: float
) -> np.ndarray:
    """Signed distance to a rectangle with rounded corners."""
    x0, y0, x1, y1 = xyxy
    dx = np.abs(right - (x0 + x1) / 2) - (x1 - x0) / 2 + radius
    dy = np.abs(down - (y0 + y1) / 2) - (y1 - y0) / 2 + radius
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - radius


def _window(canvas: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
    """Rows and columns of the canvas that contain this box."""
    height, width = canvas.shape[:2]
    rows = slice(max(0, math.floor(y0)), min(height, math.ceil(y1) + 1))
    return rows, slice(max(0, math.floor(x0)), min(width, math.ceil(x1) + 1))


def _rows(values: Any, columns: int, name: str) -> np.ndarray:
    """(K, columns) float64; an empty one for None, one row where a single one is given."""
    if values is None:
        return np.zeros((0, columns))
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1 and array.size == columns:
        array = array[None]
    if array.size == 0:
        return np.zeros((0, columns))
    if array.ndim != 2 or array.shape[1] != columns or not np.isfinite(array).all():
        raise InputError(f"expected {name} ({'K' if columns == 4 else 'N'}, {columns}), got {array.shape}.")
    return array


def _fit(image: np.ndarray, width: int, max_height: int) -> np.ndarray:
    """The picture scaled to a width, or to a height if it is too tall."""
    h, w = image.shape[:2]
    scale = min(width / w, max_height / h)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _shorten(text: str, font: Any, width: float) -> str:
    """The text, or its start with … where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
