"""Masks of pictures far beyond the model's side: tile by tile at full resolution, joined over the tiles' borders.

Tiles overlap, so that an object at a border is seen from both sides. What happens to the masks of two tiles A and B
whose overlap is O:

1. *Prefer whole ones.* A mask is cut if it touches a border of its tile that is not the picture's. A cut mask a of A
   that lies in O (by 90 % of its pixels) goes if B has a mask b that is not cut and agrees with it in O: the IoU of
   a ∩ O and b ∩ O is at least 0.5.
2. *Join.* Cut masks of A and B that agree in O are one object; best pairs first, each mask in one pair. Objects that
   run through many tiles are joined along the chain.
3. *Drop.* A cut mask that was not joined and lies in O goes: B sees all of the object, and did not find it.
4. *De-duplicate.* Over the picture, boxes with an IoU above `box_nms_thresh` keep the mask of the best predicted IoU.

A cut mask that is left ends at its tile's border: the neighbour did not find the rest of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import OptionError
from anymask.core.rle import RLE, area, to_bbox_xywh
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.filters import nms
from anymask.predict.hierarchy import as_rle
from anymask.predict.patches import encode_patch
from anymask.predict.pictures import Picture
from anymask.predict.windows import decode_box, decode_window

AGREE_IOU = 0.5  # of two masks in the overlap, from which on they are of one object
INSIDE = 0.9  # share of a mask's pixels from which on it lies in the overlap
EDGE_PX = 3  # a mask that ends so near to its tile's border touches it: logits fade there

BoxXYXY = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiles:
    """Tiles of side_px squared that overlap by at least overlap_px. Raises OptionError for values out of range."""

    side_px: int = 1024
    overlap_px: int = 128

    def __post_init__(self) -> None:
        if self.side_px < 64:
            raise OptionError(f"--tile must be 64 pixels or more, got {self.side_px}.")
        if not 0 <= self.overlap_px <= self.side_px // 2:
            raise OptionError(f"--overlap must be 0 to {self.side_px // 2} (half a tile), got {self.overlap_px}.")

    def boxes(self, hw: tuple[int, int]) -> list[BoxXYXY]:
        """Tiles x0, y0, x1, y1 of a picture, row by row, spread evenly; smaller only where the picture is."""
        (height, width), rows, columns = hw, self._starts(hw[0]), self._starts(hw[1])
        side = self.side_px
        return [(x, y, min(x + side, width), min(y + side, height)) for y, x in product(rows, columns)]

    def _starts(self, length: int) -> list[int]:
        if length <= self.side_px:
            return [0]
        last = -(-(length - self.side_px) // (self.side_px - self.overlap_px))
        return [round(i * (length - self.side_px) / last) for i in range(last + 1)]


@dataclass
class Piece:
    """A mask of one tile. record: as the generator gave it. rle: of the tile. cut: it may go on outside."""

    record: dict[str, Any]
    rle: RLE
    tile: BoxXYXY
    num_px: int
    cut: bool
    others: list[Piece] = field(default_factory=list)  # that it was joined with
    dropped: bool = False


def segment_tiles(
    generator: SamAutomaticMaskGenerator,
    picture: Picture,
    tiles: Tiles,
    time_budget_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """All masks of a picture, as `SamAutomaticMaskGenerator.generate` returns them, in the picture's pixels.

    Point grid, filters and crops are applied to each tile; `crop_box` is the box around the tiles a mask comes from.
    `segmentation` is COCO RLE whatever the output mode. progress: called with tiles done and tiles in all.

    Memory: what `generate` needs for one tile, the picture's decoded parts, and about 1 kB for each mask.
    """
    stop_at = None if time_budget_s is None else time.monotonic() + time_budget_s
    boxes = tiles.boxes(picture.hw)
    by_tile: list[list[Piece]] = []
    for i, box in enumerate(boxes):
        budget = None if stop_at is None else max(0.0, stop_at - time.monotonic()) / (len(boxes) - i)
        records = generator.generate(picture.window(box), time_budget_s=budget)
        by_tile.append([_piece(record, box, picture.hw) for record in records])
        if progress is not None:
            progress(i + 1, len(boxes))
    for rule in (_prefer_whole, _join, _drop_unmatched):
        for i, j in _neighbours(boxes):
            shared = _shared(boxes[i], boxes[j])
            rule(_parts(by_tile[i], shared), _parts(by_tile[j], shared))
    pieces = [p for some in by_tile for p in some if not p.dropped]
    records = [_record(chain, picture.hw) for chain in _chains(pieces)]
    found = np.array([_xyxy(r["bbox"]) for r in records], dtype=np.float32).reshape(-1, 4)
    scores = np.array([r["predicted_iou"] for r in records])
    return [records[i] for i in nms(found, scores, generator.options.box_nms_thresh)]


def _piece(record: dict[str, Any], tile: BoxXYXY, hw: tuple[int, int]) -> Piece:
    rle = as_rle(record["segmentation"])
    x, y, w, h = to_bbox_xywh(rle)
    x0, y0, x1, y1 = tile
    inner = (x0 > 0, y0 > 0, x1 < hw[1], y1 < hw[0])  # sides of the tile beyond which the picture goes on
    distance = (x, y, x1 - x0 - x - w, y1 - y0 - y - h)
    cut = any(is_inner and d < EDGE_PX for is_inner, d in zip(inner, distance))
    kept = {k: v for k, v in record.items() if k not in ("segmentation", "parent", "low_res_logits")}
    return Piece(kept, rle, tile, area(rle), cut)


def _neighbours(boxes: Sequence[BoxXYXY]) -> list[tuple[int, int]]:
    """Pairs of tiles that overlap."""
    b = np.array(boxes).reshape(-1, 4)
    pairs = []
    for i in range(len(boxes)):
        low, high = np.maximum(b[i, :2], b[i + 1 :, :2]), np.minimum(b[i, 2:], b[i + 1 :, 2:])
        pairs += [(i, i + 1 + int(j)) for j in np.flatnonzero((high > low).all(axis=1))]
    return pairs


def _shared(a: BoxXYXY, b: BoxXYXY) -> BoxXYXY:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


@dataclass(frozen=True)
class Part:
    """What a piece covers of an overlap; lies_in: that is nearly all of it."""

    piece: Piece
    rle: dict[str, Any]  # of the overlap, as pycocotools wants it
    lies_in: bool


def _parts(pieces: list[Piece], shared: BoxXYXY) -> list[Part]:
    """Parts of the pieces of a tile in an overlap (of the picture's pixels)."""
    parts = []
    for piece in pieces:
        left, top = piece.tile[:2]
        mask = decode_window(piece.rle, (shared[0] - left, shared[1] - top, shared[2] - left, shared[3] - top))
        num_px = 0 if piece.dropped else int(np.count_nonzero(mask))
        if num_px:
            rle = encode_patch(mask, 0, 0, (mask.shape[0], mask.shape[1]))
            parts.append(Part(piece, {**rle, "counts": rle["counts"].encode("ascii")}, num_px >= INSIDE * piece.num_px))
    return parts


def _iou(first: list[Part], second: list[Part]) -> np.ndarray:
    """IoU in the overlap, (len(first), len(second))."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco.iou([p.rle for p in first], [p.rle for p in second], [0] * len(second)))


def _prefer_whole(first: list[Part], second: list[Part]) -> None:
    """Rule 1 for two tiles."""
    for some, others in ((first, second), (second, first)):
        whole = [p for p in others if not p.piece.cut]
        cut = [p for p in some if p.piece.cut and p.lies_in]
        agree = np.asarray(_iou(cut, whole) >= AGREE_IOU)
        for i, part in enumerate(cut):
            part.piece.dropped = part.piece.dropped or bool(agree[i].any())


def _join(first: list[Part], second: list[Part]) -> None:
    """Rule 2 for two tiles."""
    a, b = ([p for p in some if p.piece.cut] for some in (first, second))
    iou = _iou(a, b)
    taken: tuple[set[int], set[int]] = (set(), set())
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(b))
        if iou[i, j] < AGREE_IOU:
            break
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            a[i].piece.others.append(b[j].piece)
            b[j].piece.others.append(a[i].piece)


def _drop_unmatched(first: list[Part], second: list[Part]) -> None:
    """Rule 3 for two tiles."""
    for part in first + second:
        if part.piece.cut and part.lies_in and not part.piece.others:
            part.piece.dropped = True


def _chains(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces of one object together, in the order of the first of each."""
    seen: set[int] = set()
    chains = []
    for piece in pieces:
        chain, waiting = [], [piece]
        while waiting:
            one = waiting.pop()
            if id(one) not in seen:
                seen.add(id(one))
                chain.append(one)
                waiting += one.others
        if chain:
            chains.append(chain)
    return chains


def _record(chain: list[Piece], hw: tuple[int, int]) -> dict[str, Any]:
    """One record of the pieces of an object; scores are means by area, the point is the largest piece's."""
    largest = max(chain, key=lambda p: p.num_px)
    rle = coco.merge([_placed(p, hw) for p in chain])
    x, y, w, h = (int(v) for v in coco.toBbox(rle))
    weights = [max(1, p.num_px) for p in chain]
    tiles = np.array([p.tile for p in chain])
    x0, y0 = (int(v) for v in tiles[:, :2].min(axis=0))
    x1, y1 = (int(v) for v in tiles[:, 2:].max(axis=0))
    left, top = largest.tile[:2]
    return {
        "segmentation": {"size": list(hw), "counts": rle["counts"].decode("ascii")},
        "area": int(coco.area(rle)),
        "bbox": [x, y, max(0, w - 1), max(0, h - 1)],
        "predicted_iou": float(np.average([p.record["predicted_iou"] for p in chain], weights=weights)),
        "point_coords": [[px + left, py + top] for px, py in largest.record["point_coords"]],
        "stability_score": float(np.average([p.record["stability_score"] for p in chain], weights=weights)),
        "crop_box": [x0, y0, x1 - x0, y1 - y0],
    }


def _placed(piece: Piece, hw: tuple[int, int]) -> dict[str, Any]:
    """Run lengths in the picture, as pycocotools wants them."""
    mask, x, y = decode_box(piece.rle)
    rle = encode_patch(mask, piece.tile[1] + y, piece.tile[0] + x, hw)
    return {"size": list(hw), "counts": rle["counts"].encode("ascii")}


def _xyxy(box_xywh: list[int]) -> list[int]:
    x, y, w, h = box_xywh
    return [x, y, x + w, y + h]
