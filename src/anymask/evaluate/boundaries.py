"""Boundaries as sets of pixels: from label maps, thinned to lines, and matched one to one (BSDS500's benchmark).

Matching is an assignment problem: as many pixels as possible of two boundary maps get a partner of their own within a
distance, and among those assignments the nearest one. scipy solves it; unmatched pixels are assigned to a place of
their own at a price that no real pair reaches.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from anymask.core.errors import InputError, MissingExtraError

UNMATCHED = 100.0  # price of no partner, in units of the largest distance: the reference benchmark's outlier cost
PAIRS_AT_ONCE = 2000  # small problems are solved together up to this size, for each call has a cost of its own
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))  # x1 … x8 of Guo and Hall


def boundary_of_labels(labels: np.ndarray) -> np.ndarray:
    """Boundary pixels (H, W) bool of a label map (H, W): where the 2×2 block down and right has two labels.

    The rule of the reference code (`seg2bdry`, 'imageSize'): one pixel wide, on the upper left side.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0:
        raise InputError(f"expected a label map (H, W), got shape {labels.shape}.")
    edge = np.zeros(labels.shape, bool)
    below, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= below
    edge[:, :-1] |= right
    edge[:-1, :-1] |= below[:, 1:] | right[1:]
    return edge


def thin(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) bool worn down to lines of one pixel, as MATLAB's `bwmorph(…, 'thin', Inf)` does.

    Guo and Hall 1989; the same result as skimage's `thin`, but only set pixels are looked at, which is what makes
    99 thresholds of 200 photos affordable.
    """
    padded = np.pad(np.asarray(mask, bool), 1).astype(np.uint8)
    width = padded.shape[1]
    flat = padded.ravel()
    steps = np.array([dy * width + dx for dy, dx in _NEIGHBOURS])
    bits = (1 << np.arange(8)).astype(np.uint8)
    removable = _removable()
    alive = np.flatnonzero(flat)
    while True:
        before = len(alive)
        for table in removable:
            codes = flat[alive[:, None] + steps] @ bits
            gone = table[codes]
            flat[alive[gone]] = 0
            alive = alive[~gone]
        if len(alive) == before:
            return padded[1:-1, 1:-1].astype(bool)


def match_boundaries(a: np.ndarray, b: np.ndarray, max_distance_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of two boundary maps (H, W) bool get a partner, each at most one: two maps (H, W) bool.

    Both results have the same number of pixels.
    """
    if a.shape != b.shape:
        raise InputError(f"boundary maps must have one size (H, W), got {a.shape} and {b.shape}.")
    try:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import min_weight_full_bipartite_matching
    except ImportError as error:
        raise MissingExtraError("matching boundaries needs scipy: pip install 'anymask[evaluate]'") from error
    if np.count_nonzero(a) > np.count_nonzero(b):
        matched_b, matched_a = match_boundaries(b, a, max_distance_px)
        return matched_a, matched_b
    rows, columns, distance, a_at, b_at = _pairs(a, b, max_distance_px)
    matched_a, matched_b = np.zeros(a.shape, bool), np.zeros(b.shape, bool)
    for part in _independent(rows, columns, len(a_at), len(b_at)):
        mine, row = np.unique(rows[part], return_inverse=True)
        theirs, column = np.unique(columns[part], return_inverse=True)
        one, two = len(mine), len(theirs)
        alone = np.full(one, UNMATCHED * max_distance_px + 1)
        price = np.concatenate([distance[part] + 1e-3, alone])  # a sparse matrix has no zeros
        where = np.concatenate([row, np.arange(one)]), np.concatenate([column, two + np.arange(one)])
        _, partner = min_weight_full_bipartite_matching(csr_matrix((price, where), shape=(one, two + one)))
        found = partner < two
        matched_a.ravel()[a_at[mine[found]]] = True
        matched_b.ravel()[b_at[theirs[partner[found]]]] = True
    return matched_a, matched_b


def _independent(rows: np.ndarray, columns: np.ndarray, num_a: int, num_b: int) -> list[np.ndarray]:
    """Pairs as index arrays that share no pixel: the solver's time grows with the square of what it gets at once."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    size = num_a + num_b
    graph = csr_matrix((np.ones(len(rows), np.int8), (rows, num_a + columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    component = component[rows]
    order = np.argsort(component, kind="stable")
    starts = np.flatnonzero(np.diff(component[order], prepend=-1))
    cuts, last = [], 0
    for start in starts[1:]:
        if start - last >= PAIRS_AT_ONCE:
            cuts.append(start)
            last = start
    return np.split(order, cuts) if len(rows) else []


def _pairs(
    a: np.ndarray, b: np.ndarray, max_distance_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within the distance: index into a, index into b, distance; and the flat places of the pixels indexed.

    Pixels without any partner in reach are left out: no assignment can change their fate.
    """
    dy, dx, distance = _offsets(max_distance_px)
    reach = int(np.floor(max_distance_px))
    index = np.full((b.shape[0] + 2 * reach, b.shape[1] + 2 * reach), -1, np.int32)
    b_at = np.flatnonzero(b)
    by, bx = np.divmod(b_at, b.shape[1])
    index[by + reach, bx + reach] = np.arange(len(b_at))
    a_at = np.flatnonzero(a)
    ay, ax = np.divmod(a_at, a.shape[1])
    start = (ay + reach) * index.shape[1] + ax + reach
    seen = index.ravel()[start[:, None] + (dy * index.shape[1] + dx)]
    rows, offset = np.nonzero(seen >= 0)
    columns = seen[rows, offset]
    used_a, rows = np.unique(rows, return_inverse=True)
    used_b, columns = np.unique(columns, return_inverse=True)
    return rows, columns, distance[offset], a_at[used_a], b_at[used_b]


@cache
def _offsets(max_distance_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reach = int(np.floor(max_distance_px))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(dy, dx)
    near = distance <= max_distance_px
    return dy[near], dx[near], distance[near]


@cache
def _removable() -> tuple[np.ndarray, np.ndarray]:
    """Two tables over the 256 neighbourhoods: may the pixel go in the first, in the second half of an iteration?"""
    x = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
    around = [x[:, i % 8] for i in range(9)]  # x1 … x8, x1
    crossings = sum((~around[i] & (around[i + 1] | around[i + 2])).astype(int) for i in (0, 2, 4, 6))
    first = sum((around[i] | around[i + 1]).astype(int) for i in (0, 2, 4, 6))
    second = sum((around[i + 1] | around[i + 2]).astype(int) for i in (0, 2, 4, 6))
    pairs = np.minimum(first, second)
    thick = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    x1, x2, x3, x4, x5, x6, x7, x8 = around[:8]
    return thick & ~((x2 | x3 | ~x8) & x1), thick & ~((x6 | x7 | ~x4) & x5)
