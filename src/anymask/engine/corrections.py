"""Automatic masks beside what people made of them: PAPER §4.5's IoU of automatic against corrected masks."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco
from sqlalchemy import Connection, Row, case, func, select

from anymask.core.rle import RLE
from anymask.engine.store import Store
from anymask.engine.tables import images, masks

PAPER_SHARES = {0.90: 0.94, 0.75: 0.97}  # of pairs above an IoU, of 500 photos with about 50,000 masks
_AT_ONCE = 500  # rows looked up in one statement


@dataclass(frozen=True)
class Compared:
    """Automatic masks that people looked at. num_same: accepted as they were, IoU 1. num_edited: corrected.

    edited_ious: of a random sample of the corrected ones, (N,). num_rejected: gone altogether, in no share, as the
    paper's pairs.
    """

    num_same: int
    num_edited: int
    num_rejected: int
    edited_ious: tuple[float, ...]

    @property
    def num_pairs(self) -> int:
        """Accepted and corrected."""
        return self.num_same + self.num_edited

    def share_above(self, iou: float) -> float | None:
        """Share of pairs above an IoU; None without any pair."""
        if not self.num_pairs:
            return None
        edited = float(np.mean(np.array(self.edited_ious) > iou)) if self.edited_ious else 0.0
        return (self.num_same + self.num_edited * edited) / self.num_pairs

    @property
    def mean_iou(self) -> float | None:
        """Mean over pairs; None without any."""
        if not self.num_pairs:
            return None
        edited = float(np.mean(self.edited_ious)) if self.edited_ious else 1.0
        return (self.num_same + self.num_edited * edited) / self.num_pairs

    def to_json(self) -> dict[str, Any]:
        """Numbers, shares and how many were measured."""
        return {
            "pairs": self.num_pairs,
            "unchanged": self.num_same,
            "corrected": self.num_edited,
            "rejected": self.num_rejected,
            "measured": len(self.edited_ious),
            "mean_iou": self.mean_iou,
            "share_above_0.90": self.share_above(0.90),
            "share_above_0.75": self.share_above(0.75),
        }


def compare_corrected(
    store: Store,
    project_id: int,
    *,
    stages: Collection[int] = (2, 3),
    image_ids: Collection[int] | None = None,
    num_sampled: int | None = 2000,
    seed: int = 0,
) -> Compared:
    """Masks that models proposed and people accepted, corrected or rejected, of some stages or some photos.

    num_sampled: IoU of this many corrected masks, chosen at random; None: of all. seed: of the choice.
    """
    current = masks.c.is_current & (masks.c.project_id == project_id) & masks.c.stage.in_(stages)
    with store.transaction() as connection:
        same = rejected = 0
        edited: list[int] = []
        for part in _parts(image_ids):
            here = current if part is None else current & masks.c.image_id.in_(part)
            by_model = here & (masks.c.version == 1) & (masks.c.author_kind == "model")
            counts = select(
                func.coalesce(func.sum(case((masks.c.state == "accepted", 1), else_=0)), 0),
                func.coalesce(func.sum(case((masks.c.state == "rejected", 1), else_=0)), 0),
            ).where(by_model)
            num_same, num_rejected = connection.execute(counts).one()
            same, rejected = same + num_same, rejected + num_rejected
            edited += connection.scalars(select(masks.c.id).where(here & (masks.c.version > 1)).order_by(masks.c.id))
        chosen = edited
        if num_sampled is not None and num_sampled < len(edited):
            chosen = sorted(random.Random(seed).sample(edited, num_sampled))
        pairs = _pairs(connection, chosen)
    of_models = [(first, last) for first, last in pairs if first.author_kind == "model"]
    kept = [pair for pair in of_models if pair[1].state != "rejected"]
    scale = len(edited) / len(chosen) if chosen else 0.0
    num_edited, num_dropped = round(len(kept) * scale), round((len(of_models) - len(kept)) * scale)
    return Compared(same, num_edited, rejected + num_dropped, tuple(pair_iou(*map(_rle, pair)) for pair in kept))


def _pairs(connection: Connection, current_ids: list[int]) -> list[tuple[Row, Row]]:
    """First and current version of masks, by going up from parent to parent."""
    latest = _rows(connection, current_ids)
    first = dict(latest)
    while above := {id_: row.parent_id for id_, row in first.items() if row.parent_id is not None}:
        parents = _rows(connection, above.values())
        first |= {id_: parents[parent] for id_, parent in above.items()}
    return [(first[id_], latest[id_]) for id_ in current_ids]


def _rows(connection: Connection, ids: Iterable[int]) -> dict[int, Row]:
    wanted = sorted(set(ids))
    rows: dict[int, Row] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        query = (
            select(masks.c.id, masks.c.parent_id, masks.c.author_kind, masks.c.state, masks.c.rle, images.c.height)
            .add_columns(images.c.width)
            .join(images, images.c.id == masks.c.image_id)
            .where(masks.c.id.in_(wanted[start : start + _AT_ONCE]))
        )
        rows |= {row.id: row for row in connection.execute(query)}
    return rows


def pair_iou(first: RLE, last: RLE) -> float:
    """IoU 0 … 1 of two masks of one photo that the store has checked."""
    return float(coco.iou([first], [last], [0])[0, 0])


def _rle(row: Row) -> RLE:
    return {"size": [row.height, row.width], "counts": bytes(row.rle).decode("ascii")}


def _parts(image_ids: Collection[int] | None) -> Iterable[list[int] | None]:
    if image_ids is None:
        return [None]
    wanted = sorted(set(image_ids))
    return [wanted[start : start + _AT_ONCE] for start in range(0, len(wanted), _AT_ONCE)]
