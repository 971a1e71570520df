"""Scenes: pieces pasted over each other on a background; scene i is a function of (seed, i) alone.

A canvas of the same size as the picture says which leaf of which piece is seen at a pixel. Every mask is a set
of leaves looked up on it, so masks are exact, show only what is visible, and stay nested under any occlusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anymask.core.errors import OptionError, StateError
from anymask.core.rle import encode
from anymask.data.readers.photo import Photo
from anymask.data.synthetic.art import VectorArt
from anymask.data.synthetic.backgrounds import clouds, from_photo, procedural
from anymask.data.synthetic.cutouts import Cutouts
from anymask.data.synthetic.pieces import SAME_AREA, Piece, parents_of

LEVELS = ("whole", "part", "subpart")  # by depth; deeper ones are subparts too
_DECK, _DECK_SCENES = 48, 96  # so many drawings serve so many scenes in a row: most are still in the cache
_TRIES = 8
_CROWD, _CROWD_SIZE = (8, 40), (0.06, 0.25)  # pieces of a scene of things that are alike; their middle size


@dataclass(frozen=True)
class SceneOptions:
    """What scenes look like.

    hw: size (H, W). num_pieces: least and most pieces. size: range of a piece's longer side, relative to the
    scene's shorter one, drawn evenly in its logarithm. cutouts: share of pieces from real segments, where there
    are any. real_background: chance of a photo as background, where there are any. min_area_px: smaller masks
    are left out. min_visible: a piece of which less is seen gets no masks. effects: strength of colour changes,
    shading, shadow, blur and noise, 0..1. crowds: chance of a scene of many pieces that are alike.
    """

    hw: tuple[int, int] = (480, 640)
    num_pieces: tuple[int, int] = (3, 14)
    size: tuple[float, float] = (0.1, 0.9)
    cutouts: float = 0.4
    real_background: float = 0.6
    min_area_px: int = 48
    min_visible: float = 0.2
    effects: float = 1.0
    crowds: float = 0.0

    def __post_init__(self) -> None:
        if min(self.hw) < 32:
            raise OptionError(f"a scene needs at least 32×32 pixels, got hw {self.hw}.")
        if not 1 <= self.num_pieces[0] <= self.num_pieces[1]:
            raise OptionError(f"num_pieces must be (least, most) from 1, got {self.num_pieces}.")
        if not 0 < self.size[0] <= self.size[1]:
            raise OptionError(f"size must be (smallest, largest) above 0, got {self.size}.")
        for name in ("cutouts", "real_background", "min_visible", "effects", "crowds"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} must be 0..1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Scene:
    """image: (H, W, 3) uint8 RGB. masks: (M, H, W) bool, visible pixels. parents: index of the mask around each,
    None for a whole. levels: "whole", "part" or "subpart". names: what the whole is called.
    """

    image: np.ndarray
    masks: np.ndarray
    parents: list[int | None]
    levels: list[str]
    names: list[str]


class SyntheticScenes:
    """Unlimited scenes; `scene(i)` and `photo(i)` give the same for the same seed, in any order and process."""

    def __init__(
        self,
        art: VectorArt | None = None,
        cutouts: Cutouts | None = None,
        backgrounds: Sequence[Photo] = (),
        options: SceneOptions | None = None,
        seed: int = 0,
    ) -> None:
        """art: see `load_art`. At least one of art and cutouts is needed."""
        if art is None and cutouts is None:
            raise OptionError("scenes need something to show: pass art=load_art(), or cutouts.")
        self.art = art
        self.cutouts = cutouts
        self.backgrounds = list(backgrounds)
        self.options = options or SceneOptions()
        self.seed = seed

    def scene(self, index: int) -> Scene:
        """Scene `index`; it has at least one mask."""
        for attempt in range(_TRIES):
            rng = np.random.default_rng((self.seed, index, attempt))
            canvas = _Canvas(self._background(rng))
            for piece, side_px in self._pieces(index, rng):
                if piece is not None:
                    canvas.paste(piece, side_px, self.options.effects, rng)
            scene = canvas.finish(self.options, rng)
            if len(scene.masks):
                return scene
        raise StateError(
            f"{_TRIES} scenes in a row had no mask. Can the drawings be used, and is min_area_px too large?"
        )

    def photo(self, index: int) -> Photo:
        """Scene `index` as a JPEG of random quality with RLE; wholes are labelled with their names."""
        scene = self.scene(index)
        rng = np.random.default_rng((self.seed, index, _TRIES))
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 98))]
        _, encoded = cv2.imencode(".jpg", scene.image[..., ::-1], quality)
        labels = [name if level == LEVELS[0] else None for name, level in zip(scene.names, scene.levels)]
        h, w = scene.image.shape[:2]
        return Photo(f"{index:08d}", "synthetic", encoded.tobytes(), (h, w), encode(scene.masks), list(labels))

    def photos(self, num: int, start: int = 0) -> Iterator[Photo]:
        """Scenes `start` … `start + num - 1`."""
        return (self.photo(i) for i in range(start, start + num))

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        if self.backgrounds and rng.random() < self.options.real_background:
            view = from_photo(self.backgrounds, self.options.hw, rng)
            if view is not None:
                return view
        return procedural(self.options.hw, rng)

    def _pieces(self, index: int, rng: np.random.Generator) -> Iterator[tuple[Piece | None, int]]:
        """What a scene shows and how large, its longer side in pixels."""
        low, high = self.options.size
        crowd: list[Piece | None] = []
        if self.options.crowds and rng.random() < self.options.crowds:
            middle, (least, most) = float(np.exp(rng.uniform(*np.log(_CROWD_SIZE)))), _CROWD
            low, high = middle / 1.5, middle * 1.5
            crowd = [self._piece(index, round(middle * min(self.options.hw)), rng) for _ in range(rng.integers(1, 4))]
        else:
            least, most = self.options.num_pieces
        for _ in range(int(rng.integers(least, most + 1))):
            share = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            side_px = max(12, round(share * min(self.options.hw)))
            piece = crowd[rng.integers(len(crowd))] if crowd else self._piece(index, side_px, rng)
            yield piece, side_px

    def _piece(self, index: int, side_px: int, rng: np.random.Generator) -> Piece | None:
        if self.cutouts is not None and (self.art is None or rng.random() < self.options.cutouts):
            return self.cutouts.piece(int(rng.integers(len(self.cutouts))))
        assert self.art is not None
        deck = np.random.default_rng((self.seed, index // _DECK_SCENES, _TRIES + 1))
        cards = deck.integers(0, len(self.art), _DECK)
        return self.art.piece(int(cards[rng.integers(_DECK)]), 96 if side_px <= 110 else 256)


Box = tuple[slice, slice]


class _Canvas:
    """A picture in the making: pixels, and for each the number of the leaf that is seen."""

    def __init__(self, background: np.ndarray) -> None:
        self.image = np.ascontiguousarray(background)
        self.owner: np.ndarray = np.zeros(background.shape[:2], np.int32)
        self._pieces: list[tuple[Piece, int, int, Box]] = []  # first leaf number, full area in px, place
        self._next = 1

    def paste(self, piece: Piece, side_px: int, effects: float, rng: np.random.Generator) -> None:
        """A piece with its longer side at `side_px`, turned, mirrored and recoloured, at a random place."""
        scale = min(side_px / max(piece.leaves.shape), 3.0)
        rgba, leaves = _placed(piece, scale, rng)
        ph, pw = leaves.shape[:2]
        h, w = self.owner.shape
        top = int(rng.integers(-ph // 3, max(h - 2 * ph // 3, -ph // 3 + 1)))
        left = int(rng.integers(-pw // 3, max(w - 2 * pw // 3, -pw // 3 + 1)))
        y0, x0, y1, x1 = max(0, top), max(0, left), min(h, top + ph), min(w, left + pw)
        if y1 - y0 < 4 or x1 - x0 < 4:
            return
        colours = _recoloured(rgba[..., :3], effects, rng)
        alpha = rgba[..., 3]
        self._shadow(alpha, top, left, effects, rng)
        part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        here = (slice(y0, y1), slice(x0, x1))
        a = alpha[part][..., None].astype(np.float32) * (1 / 255)
        self.image[here] = (self.image[here] * (1 - a) + colours[part] * a + 0.5).astype(np.uint8)
        seen = (alpha[part] > 127) & (leaves[part] > 0)
        self.owner[here][seen] = leaves[part][seen].astype(np.int32) + (self._next - 1)
        self._pieces.append((piece, self._next, int(np.count_nonzero(leaves)), here))
        self._next += 256

    def _shadow(self, alpha: np.ndarray, top: int, left: int, effects: float, rng: np.random.Generator) -> None:
        strength = float(rng.uniform(0, 0.6)) * effects
        side = max(alpha.shape)
        sigma, shift = float(rng.uniform(0.01, 0.08)) * side + 0.5, rng.uniform(-0.1, 0.1, 2) * side
        if strength < 0.1 or rng.random() < 0.3:
            return
        pad = int(2 * sigma) + 1
        # the shadow is smooth: a quarter of the resolution is enough, and 16 times faster
        small = cv2.resize(np.pad(alpha, pad), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), max(0.3, sigma / 4))
        size = (alpha.shape[1] + 2 * pad, alpha.shape[0] + 2 * pad)
        shade = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
        y, x = top - pad + int(shift[0]), left - pad + int(shift[1])
        y0, x0 = max(0, y), max(0, x)
        y1, x1 = min(self.owner.shape[0], y + size[1]), min(self.owner.shape[1], x + size[0])
        if y1 <= y0 or x1 <= x0:
            return
        dark = 1 - shade[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.float32) * (strength / 255)
        self.image[y0:y1, x0:x1] = (self.image[y0:y1, x0:x1] * dark).astype(np.uint8)

    def finish(self, options: SceneOptions, rng: np.random.Generator) -> Scene:
        """The scene with its masks; pieces that are hardly seen and parts that are tiny, or all that is left of
        what they lie in, have none."""
        masks: list[np.ndarray] = []
        areas: list[int] = []
        parents: list[int | None] = []
        levels: list[str] = []
        names: list[str] = []
        for piece, first, full_px, here in self._pieces:
            leaves = self.owner[here] - (first - 1)  # of this piece; those of others leave 1 … 255
            leaves = np.where((leaves > 0) & (leaves < 256), leaves, 0).astype(np.uint8)
            seen = np.bincount(leaves.ravel(), minlength=256)
            seen[0] = 0
            if seen.sum() < max(options.min_area_px, options.min_visible * full_px):
                continue
            kept: dict[int, int] = {}  # part of the piece to its mask
            around = parents_of(piece.parts)
            for k, part in enumerate(piece.parts):
                table = np.zeros(256, bool)
                table[list(part)] = True
                home = around[k]
                while home is not None and home not in kept:
                    home = around[home]
                px = int(seen[table].sum())
                if px < options.min_area_px or (home is not None and px >= SAME_AREA * areas[kept[home]]):
                    continue
                kept[k] = len(masks)
                mask = np.zeros(self.owner.shape, bool)
                mask[here] = table[leaves]
                masks.append(mask)
                areas.append(px)
                parents.append(None if home is None else kept[home])
                depth = 0 if home is None else LEVELS.index(levels[kept[home]]) + 1
                levels.append(LEVELS[min(depth, len(LEVELS) - 1)])
                names.append(piece.name)
        stacked = np.stack(masks) if masks else np.zeros((0, *self.owner.shape), bool)
        return Scene(_weathered(self.image, options.effects, rng), stacked, parents, levels, names)


def _placed(piece: Piece, scale: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """RGBA and leaves of a piece, scaled, turned and mirrored together. Leaves are moved, never mixed."""
    rgba, leaves = piece.rgba, piece.leaves
    if rng.random() < 0.5:
        rgba, leaves = rgba[:, ::-1], leaves[:, ::-1]
    rgba = rgba.copy()
    rgba[..., :3] = rgba[..., :3] * (rgba[..., 3:] > 0)
    if scale < 0.6:  # bilinear sampling would skip pixels
        size = max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[0] * scale))
        rgba = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
        leaves = cv2.resize(leaves, size, interpolation=cv2.INTER_NEAREST_EXACT)
        scale = 1.0
    angle = float(rng.normal(0, 15)) if rng.random() < 0.8 else float(rng.uniform(-180, 180))
    h, w = leaves.shape
    turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, scale)
    new_w = int(abs(turn[0, 0]) * w + abs(turn[0, 1]) * h) + 3
    new_h = int(abs(turn[0, 0]) * h + abs(turn[0, 1]) * w) + 3
    turn[:, 2] += (new_w - w) / 2, (new_h - h) / 2
    rgba = cv2.warpAffine(rgba, turn, (new_w, new_h), flags=cv2.INTER_LINEAR)
    leaves = cv2.warpAffine(np.ascontiguousarray(leaves), turn, (new_w, new_h), flags=cv2.INTER_NEAREST)
    return rgba, leaves


def _recoloured(rgb: np.ndarray, effects: float, rng: np.random.Generator) -> np.ndarray:
    """Colours (h, w, 3) float32 with another hue, light from one side, and a texture."""
    if effects == 0:
        return rgb.astype(np.float32)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(rng.integers(180) * effects)) % 180
        hsv[..., 1] = (hsv[..., 1] * float(rng.uniform(1 - 0.7 * effects, 1))).astype(np.uint8)
        rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    light = np.float32(1 + effects * rng.uniform(-0.35, 0.2))
    h, w = rgb.shape[:2]
    slope_y, slope_x = rng.uniform(-0.35, 0.35, 2) * effects
    shading = light + np.linspace(-slope_y, slope_y, h, dtype=np.float32)[:, None]
    shading = shading + np.linspace(-slope_x, slope_x, w, dtype=np.float32)[None]
    if rng.random() < 0.6:
        shading = shading + np.float32(rng.uniform(0, 0.35) * effects) * (clouds((h, w), rng) - 0.5)
    return np.asarray(np.clip(rgb * shading[..., None], 0, 255), np.float32)


def _weathered(image: np.ndarray, effects: float, rng: np.random.Generator) -> np.ndarray:
    """What a camera adds: exposure, uneven light, blur, noise."""
    if effects == 0:
        return image
    h, w = image.shape[:2]
    gain = rng.uniform(1 - 0.2 * effects, 1 + 0.15 * effects, 3)
    light = rng.uniform(1 - 0.3 * effects, 1, (3, 3, 1)) * gain
    out: np.ndarray = np.asarray(cv2.multiply(image, cv2.resize(light.astype(np.float32), (w, h)), dtype=cv2.CV_32F))
    blur = float(rng.uniform(-1.2, 1.2)) * effects
    if blur > 0.25:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), blur))
    noise = float(rng.uniform(-6, 10)) * effects
    if noise > 0:
        out += rng.standard_normal((h, w, 1), np.float32) * np.float32(noise)
    return np.asarray(cv2.convertScaleAbs(np.maximum(out, 0)))  # rounded, and no more than 255
