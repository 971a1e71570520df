"""Attention of a large grid on a CPU without matrix units: row tiles of the score matrix that stay in its cache.

No arithmetic beyond the plain products, and never more of the score matrix than one tile. Scores and weights are
at least float32 between the two products. Without gradients; see `attention_gradients` for these.

Shapes: N images, `heads` of width D, a grid of h×w places, t rows of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 256


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """softmax(q·k/√D + bias_h + bias_w) v, of the shape and type of q.

    q, k, v: (N, heads, h·w, D) on the CPU, of one type. bias_h: (N, heads, h·w, h), what every place adds for each row
    of the grid; bias_w: (N, heads, h·w, w), for each column.
    """
    (n, heads, length, d), h, w = q.shape, bias_h.shape[-1], bias_w.shape[-1]
    wide = torch.promote_types(q.dtype, torch.float32)
    q, bias_h, bias_w = q * d**-0.5, bias_h.to(wide), bias_w.to(wide)
    products, out = q.new_empty(TILE, length), q.new_empty(n, length, heads, d)
    scores = products if q.dtype == wide else q.new_empty(TILE, length, dtype=wide)
    for i in range(n):
        for head in range(heads):
            keys, values = k[i, head].t().contiguous(), v[i, head].contiguous()
            for start in range(0, length, TILE):
                rows = slice(start, min(start + TILE, length))
                s = scores[: rows.stop - start]
                given = torch.mm(q[i, head, rows], keys, out=products[: rows.stop - start])
                if s.dtype != given.dtype:
                    s.copy_(given)
                grid = s.view(-1, h, w)
                grid += bias_h[i, head, rows, :, None]
                grid += bias_w[i, head, rows, None, :]
                out[i, rows, head] = torch.softmax(s, dim=-1, out=s).to(q.dtype) @ values
    return out.transpose(1, 2)
