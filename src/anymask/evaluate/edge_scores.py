"""ODS, OIS, AP and R50 of edge maps, as the BSDS500 benchmark counts them (Arbelaez et al., PAMI 2011).

At each threshold an edge map is binarised, thinned and matched to every annotator's boundary. A pixel is right if it
has a partner in *any* annotation; recall counts the pixels of *every* annotation. ODS takes one threshold for all
photos, OIS the best one for each; AP is the area under the curve; R50 the recall at a precision of one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.evaluate.boundaries import match_boundaries, thin


@dataclass(frozen=True)
class EdgeProtocol:
    """Choices of the benchmark; the defaults are the reference code's.

    num_thresholds: evenly spaced, 1/(n+1) … n/(n+1); 99 in `boundaryBench`. max_distance: of a pixel and its partner,
    in shares of the photo's diagonal; 0.0075 in BSDS500. thin: wear binarised maps down to lines first.
    """

    num_thresholds: int = 99
    max_distance: float = 0.0075
    thin: bool = True

    @property
    def thresholds(self) -> np.ndarray:
        """The thresholds, (T,)."""
        n = self.num_thresholds
        return np.linspace(1 / (n + 1), 1 - 1 / (n + 1), n)


def count_edges(edges: np.ndarray, truths: Sequence[np.ndarray], protocol: EdgeProtocol) -> list[list[int]]:
    """Counts of one photo, four for each threshold: annotated pixels found, annotated, right pixels, pixels.

    edges: (H, W) float in 0 … 1. truths: boundary maps (H, W) bool, one for each annotator.
    Raises InputError for another size, for values that are no numbers, and where nobody annotated a boundary.
    """
    if not truths or not any(truth.any() for truth in truths):
        raise InputError("no annotator drew a boundary; there is nothing to score against.")
    if edges.shape != truths[0].shape:
        raise InputError(f"the edge map is {edges.shape}, its annotations are {truths[0].shape} (H, W).")
    if not np.isfinite(edges).all():
        raise InputError("the edge map holds NaN or infinity.")
    distance_px = protocol.max_distance * float(np.hypot(*edges.shape))
    num_annotated = sum(int(truth.sum()) for truth in truths)
    counts: list[list[int]] = []
    before: np.ndarray | None = None
    for threshold in protocol.thresholds:
        binary = edges >= threshold
        if before is not None and np.array_equal(binary, before):
            counts.append(counts[-1])  # maps with few levels, such as hierarchies of segments
            continue
        before = binary
        lines = thin(binary) if protocol.thin else binary
        right, num_found = np.zeros(edges.shape, bool), 0
        for truth in truths:
            ours, theirs = match_boundaries(lines, truth, distance_px)
            right |= ours
            num_found += int(theirs.sum())
        counts.append([num_found, num_annotated, int(right.sum()), int(lines.sum())])
    return counts


def edge_scores(counts: Sequence[Sequence[Sequence[int]]], thresholds: np.ndarray) -> dict[str, Any]:
    """ODS, OIS, AP, R50 and the curve from counts (photos, T, 4).

    Keys `ods`, `ods_threshold`, `ods_recall`, `ods_precision`, `ois`, `ois_recall`, `ois_precision`, `ap`, `r50`,
    `images`, `thresholds`, `recall`, `precision`, `f`.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 3 or table.shape[1:] != (len(thresholds), 4):
        raise InputError(f"expected counts (photos, {len(thresholds)}, 4), got shape {table.shape}.")
    recall, precision, f = _recall_precision_f(table.sum(axis=0))
    best = best_f(thresholds, recall, precision)
    per_photo = _recall_precision_f(table)[2].argmax(axis=1)
    ois = _recall_precision_f(table[np.arange(len(table)), per_photo].sum(axis=0))
    return {
        "ods": best[3],
        "ods_threshold": best[0],
        "ods_recall": best[1],
        "ods_precision": best[2],
        "ois": float(ois[2]),
        "ois_recall": float(ois[0]),
        "ois_precision": float(ois[1]),
        "ap": _area(recall, precision),
        "r50": _recall_at_half(recall, precision),
        "images": len(table),
        "thresholds": [float(t) for t in thresholds],
        "recall": recall.tolist(),
        "precision": precision.tolist(),
        "f": f.tolist(),
    }


def best_f(thresholds: np.ndarray, recall: np.ndarray, precision: np.ndarray) -> tuple[float, float, float, float]:
    """Threshold, recall, precision and F at the best F of a curve, linear between its points (`maxF`)."""
    if len(thresholds) == 1:
        t, r, p = thresholds, recall, precision
    else:
        at = np.linspace(0, len(thresholds) - 1, 99 * (len(thresholds) - 1) + 1)
        t, r, p = (np.interp(at, np.arange(len(thresholds)), x) for x in (thresholds, recall, precision))
    f = _f(r, p)
    i = int(f.argmax())
    return float(t[i]), float(r[i]), float(p[i]), float(f[i])


def _recall_precision_f(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of counts (..., 4); 0 where nothing is annotated or found."""
    found, annotated, right, total = (counts[..., i] for i in range(4))
    recall, precision = found / np.maximum(annotated, 1), right / np.maximum(total, 1)
    return recall, precision, _f(recall, precision)


def _f(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    both = recall + precision
    return np.asarray(2 * recall * precision / np.where(both > 0, both, 1))


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the curve: precision, linear in recall, at 0, 0.01 … 1; 0 beyond both ends (`collect_eval_bdry`)."""
    r, first = np.unique(recall, return_index=True)
    if len(r) < 2:
        return 0.0
    return float(np.interp(np.linspace(0, 1, 101), r, precision[first], left=0, right=0).sum() * 0.01)


def _recall_at_half(recall: np.ndarray, precision: np.ndarray) -> float:
    """Recall at precision 0.5, linear between points; where every precision is higher, recall at the lowest."""
    p, first = np.unique(precision, return_index=True)
    if p[-1] < 0.5:
        return 0.0
    return float(np.interp(max(p[0], 0.5), p, recall[first]))
