"""Attention of a large grid on a CPU without matrix units: row tiles of the score matrix that stay in its cache.

No arithmetic beyond the plain products, and never more of the score matrix than one tile. Scores and weights are
at least float32 between the two products. For training the tiles are made again in the backward pass.

Shapes: N images, `heads` of width D, a grid of h×w places, t rows of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE = 256


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """softmax(q·k/√D + bias_h + bias_w) v, of the shape and type of q.

    q, k, v: (N, heads, h·w, D) on the CPU, of one type. bias_h: (N, heads, h·w, h), what every place adds for each row
    of the grid; bias_w: (N, heads, h·w, w), for each column. Once differentiable in all five.
    """
    if torch.is_grad_enabled():
        out: Tensor = _Tiled.apply(q, k, v, bias_h, bias_w)
        return out
    return _forward(q, k, v, bias_h, bias_w)


class _Scores:
    """The weights of one tile after the other; a tile overwrites the one before."""

    def __init__(self, q: Tensor, bias_h: Tensor, bias_w: Tensor) -> None:
        length, self.grid_hw = q.shape[2], (bias_h.shape[-1], bias_w.shape[-1])
        wide = torch.promote_types(q.dtype, torch.float32)
        self.q, self.bias_h, self.bias_w = q * q.shape[-1] ** -0.5, bias_h.to(wide), bias_w.to(wide)
        self.products = q.new_empty(TILE, length)
        self.scores = self.products if q.dtype == wide else q.new_empty(TILE, length, dtype=wide)

    def weights(self, i: int, head: int, rows: slice, keys: Tensor) -> Tensor:
        """(t, h·w) for these rows of image i; keys: (D, h·w)."""
        products, s = self.products[: rows.stop - rows.start], self.scores[: rows.stop - rows.start]
        torch.mm(self.q[i, head, rows], keys, out=products)
        if s.dtype != products.dtype:
            s.copy_(products)
        grid = s.view(-1, *self.grid_hw)
        grid += self.bias_h[i, head, rows, :, None]
        grid += self.bias_w[i, head, rows, None, :]
        return torch.softmax(s, dim=-1, out=s)


def _tiles(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def _forward(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    n, heads, length, d = q.shape
    out, scores = q.new_empty(n, length, heads, d), _Scores(q, bias_h, bias_w)
    for i in range(n):
        for head in range(heads):
            keys, values = k[i, head].t().contiguous(), v[i, head].contiguous()
            for rows in _tiles(length):
                out[i, rows, head] = scores.weights(i, head, rows, keys).to(q.dtype) @ values
    return out.transpose(1, 2)


class _Tiled(torch.autograd.Function):
    """The same with gradients of all five."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """The gradient of a score goes to q through the keys, and to the biases through its row and its column."""
        q, k, v, bias_h, bias_w = ctx.saved_tensors
        n, heads, length, d = q.shape
        h, w = bias_h.shape[-1], bias_w.shape[-1]
        scores = _Scores(q, bias_h, bias_w)
        wide = scores.scores.dtype
        rows_of = torch.eye(h, dtype=q.dtype).repeat_interleave(w, dim=0)  # (h·w, h)
        columns_of = torch.eye(w, dtype=q.dtype).repeat(h, 1)  # (h·w, w)
        from_rows = q.new_empty(n, heads, length, d + h + w)
        grad_k, grad_v = torch.zeros(2, n, heads, length, d, dtype=wide)
        products, grad_weights = q.new_empty(TILE, length), q.new_empty(TILE, length, dtype=wide)
        for i in range(n):
            for head in range(heads):
                keys, values = k[i, head].t().contiguous(), v[i, head].t().contiguous()
                sides = torch.cat([k[i, head] * d**-0.5, rows_of, columns_of], dim=1)  # (h·w, D + h + w)
                for rows in _tiles(length):
                    t, given = rows.stop - rows.start, grad[i, head, rows]
                    weights = scores.weights(i, head, rows, keys)
                    grad_v[i, head] += weights.to(q.dtype).t() @ given
                    arrived = grad_weights[:t].copy_(torch.mm(given, values, out=products[:t]))
                    of_scores = torch._softmax_backward_data(arrived, weights, -1, wide).to(q.dtype)
                    torch.mm(of_scores, sides, out=from_rows[i, head, rows])
                    grad_k[i, head] += of_scores.t() @ scores.q[i, head, rows]
        grad_q, grad_h, grad_w = from_rows.split([d, h, w], dim=-1)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_h.to(bias_h.dtype), grad_w.to(bias_w.dtype)
