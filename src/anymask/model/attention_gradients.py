"""Attention of the image encoder in training on a CPU: head by head and window by window, gradients written out.

The same numbers as `image_encoder.rel_pos_attention` between cutting and joining windows, and its gradients by
autograd. The position is part of the dot product, see `_folded_attention` there. The backward pass goes over tiles of
keys against all queries: of its five products only the one for the queries is a sum over tiles. The logarithm of a
row's sum and the mean of its weights' gradients are columns of the products too, which leaves two passes over a tile,
exp and times. Each thread takes whole rows of windows, or heads.

Shapes: windows of s0×s1 = L places; m of them times heads of width D at a time; W = D + s0 + s1 and what fills it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from anymask.core.processor import cpu_flags
from anymask.model.cell_gradients import total
from anymask.model.threads import for_each

TILE = 2**21  # scores; two tiles in bf16 are 8 MB: smaller ones pay more for the products, larger ones for memory


def attention_with_gradients(qkv: Tensor, padding: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention inside of windows, on the CPU: (B, h, w, 3, heads, D) to (B, h, w, heads·D) of the same type.

    padding: (3, heads, D), what stands at places outside of the grid. rel_h: (s0, s0, D), rel_w: (s1, s1, D) from
    `relative_rows`, for windows of s0×s1 places. Once differentiable in all four; gradients of the last three, which
    may be of another type, are summed in float32 at least.
    """
    out: Tensor = _Attention.apply(qkv, padding, rel_h, rel_w)
    return out


@dataclass(frozen=True)
class _Part:
    """Some heads of a row of windows of one image; the last windows may reach beyond the grid."""

    image: int
    rows: slice
    heads: slice

    def cut(self, grid: Tensor, padding: Tensor, s0: int, s1: int) -> Tensor:
        """(B, h, w, k, heads, D) and what stands outside of it, (k, heads, D), to (k, m, s0, s1, D)."""
        strip, outside = grid[self.image, self.rows, :, :, self.heads], padding[:, self.heads]
        h, w = strip.shape[:2]
        if h < s0 or w % s1:
            whole = outside.repeat(s0, w + -w % s1, 1, 1, 1)
            whole[:h, :w] = strip
            strip = whole
        return torch.unflatten(strip, 1, (-1, s1)).permute(3, 1, 4, 0, 2, 5).flatten(1, 2)

    def join(self, windows: Tensor, grid: Tensor) -> Tensor:
        """The way back, into `grid`; the sum over places outside of it, (k, c, D)."""
        strip = grid[self.image, self.rows, :, :, self.heads]
        (h, w, _, c, _), wide = strip.shape, torch.promote_types(grid.dtype, torch.float32)
        whole = torch.unflatten(windows, 1, (-1, c)).permute(3, 1, 4, 0, 2, 5).flatten(1, 2)
        strip.copy_(whole[:h, :w])
        return whole[h:].sum(dim=(0, 1), dtype=wide) + whole[:h, w:].sum(dim=(0, 1), dtype=wide)


def _parts(shape: torch.Size, s0: int, s1: int) -> list[_Part]:
    b, h, w, _, num_heads, _ = shape
    num_rows, num_columns = -(-h // s0), -(-w // s1)
    most = min(TILE // ((s0 * s1) ** 2 * num_columns), b * num_rows * num_heads // torch.get_num_threads())
    together = max(c for c in range(1, num_heads + 1) if num_heads % c == 0 and c <= max(1, most))
    return [
        _Part(image, slice(y, min(y + s0, h)), slice(head, head + together))
        for image in range(b)
        for y in range(0, h, s0)
        for head in range(0, num_heads, together)
    ]


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, padding: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        (b, h, w, _, num_heads, d), s0, s1 = qkv.shape, len(rel_h), len(rel_w)
        padding, rel_h, rel_w = (x.to(qkv.dtype) for x in (padding, rel_h, rel_w))
        parts, columns = _parts(qkv.shape, s0, s1), _key_columns(s0, s1, d, qkv.dtype)
        m = -(-w // s1) * (parts[0].heads.stop - parts[0].heads.start)
        queries, keys = qkv.new_empty(2, len(parts), m, *columns.shape)
        values = qkv.new_empty(len(parts), m, s0 * s1, d + 2)
        out = qkv.new_empty(b, h, w, 1, num_heads, d)

        def work(i: int) -> None:
            q, k, v = parts[i].cut(qkv, padding, s0, s1)
            folded = torch.unflatten(queries[i], 1, (s0, s1))
            folded[..., :d] = q * d**-0.5
            folded[..., d : d + s0] = q @ rel_h.transpose(1, 2)
            folded[..., d + s0 : d + s0 + s1] = (q.transpose(1, 2) @ rel_w.transpose(1, 2)).transpose(1, 2)
            folded[..., d + s0 + s1 :] = 0
            keys[i, ..., :d] = k.flatten(1, 2)
            keys[i, ..., d:] = columns[:, d:]
            values[i, ..., :d] = v.flatten(1, 2)
            values[i, ..., d:] = -1
            found, log_sums = _attend(queries[i], keys[i], values[i])
            queries[i, ..., -2:] = _in_two(log_sums, q.dtype)  # of use in the backward pass alone
            parts[i].join(torch.unflatten(found[None, ..., :d], 2, (s0, s1)), out)

        for_each(work, len(parts))
        ctx.parts = parts
        ctx.save_for_backward(rel_h, rel_w, out, queries, keys, values)
        return out.flatten(3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        rel_h, rel_w, out, queries, keys, values = ctx.saved_tensors
        (b, h, w, _, num_heads, d), s0, s1 = out.shape, len(rel_h), len(rel_w)
        grad, grad_qkv = grad.view(out.shape), out.new_empty(b, h, w, 3, num_heads, d)
        nothing = out.new_zeros(1, num_heads, d)

        def work(i: int) -> tuple[Tensor, Tensor, Tensor]:
            part, q = ctx.parts[i], queries[i]
            given, found = (part.cut(x, nothing, s0, s1)[0].flatten(1, 2) for x in (grad, out))
            of_q, of_k, of_v = _tiles_backward(q, keys[i], values[i], given, found)
            whole = torch.unflatten(torch.stack([of_q[..., :d], of_k, of_v]), 2, (s0, s1))  # (3, m, s0, s1, D)
            rows = torch.unflatten(q[..., :d], 1, (s0, s1))  # times 1/√D
            of_h = torch.unflatten(of_q[..., d : d + s0], 1, (s0, s1))
            of_w = torch.unflatten(of_q[..., d + s0 : d + s0 + s1], 1, (s0, s1)).transpose(1, 2)
            whole[0].mul_(d**-0.5).add_(of_h @ rel_h).add_((of_w @ rel_w).transpose(1, 2))
            of_padding = grad_qkv.new_zeros(3, num_heads, d, dtype=torch.promote_types(q.dtype, torch.float32))
            of_padding[:, part.heads] = part.join(whole, grad_qkv)
            return of_padding, _over_heads(of_h, rows), _over_heads(of_w, rows.transpose(1, 2))

        of_padding, of_rel_h, of_rel_w = map(total, zip(*for_each(work, len(ctx.parts)), strict=True))
        return grad_qkv, of_padding, of_rel_h * d**0.5, of_rel_w * d**0.5


def _tiles_backward(q: Tensor, k: Tensor, v: Tensor, given: Tensor, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the folded queries (m, L, W), of keys and of values (m, L, D); given, of found: (m, L, D)."""
    m, length, d = given.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    means = (given.to(wide) * found).sum(dim=-1)  # of the weights' gradients, weighted
    columns, of_columns = q.transpose(1, 2), torch.cat([given, _in_two(means, q.dtype)], dim=-1).transpose(1, 2)
    size = min(length, max(1, TILE // (m * length)))
    weights, scores = q.new_empty(2, m, size, length)
    of_q, of_k, of_v = torch.zeros_like(q), *q.new_empty(2, m, length, d)
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        p, s = weights[:, : rows.stop - start], scores[:, : rows.stop - start]  # (m, t, L)
        torch.exp(torch.bmm(k[:, rows], columns, out=p), out=p)
        torch.bmm(p, given, out=of_v[:, rows])
        torch.bmm(v[:, rows], of_columns, out=s).mul_(p)
        torch.bmm(s, q[..., :d], out=of_k[:, rows])
        of_q.baddbmm_(s.transpose(1, 2), k[:, rows])
    return of_q, of_k, of_v


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q·k) v (m, L, at least D), and the logarithm of every row's sum of exponents (m, L).

    The last columns of q are zero and may be written to, those of k and of v (m, L, D + 2) are -1.
    """
    if q.dtype == torch.bfloat16 and "amx_bf16" in cpu_flags():  # matrix units make up for the wider products
        v = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sums = fused(q[None], k[None], v[None], scale=1.0)
        return out[0], log_sums[0]
    m, length, _ = q.shape
    size = min(length, max(1, TILE // (m * length)))
    out, log_sums = torch.empty_like(v), v.new_empty(m, length, dtype=torch.promote_types(v.dtype, torch.float32))
    columns, scores = k.transpose(1, 2), q.new_empty(m, size, length)
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        s = scores[:, : rows.stop - start]
        highest = torch.bmm(q[:, rows], columns, out=s).amax(dim=-1, keepdim=True)
        if s.dtype == log_sums.dtype:
            s.sub_(highest)
        else:  # once more, rounded to fewer digits when what matters is near zero
            q[:, rows, -1:] = highest
            torch.bmm(q[:, rows], columns, out=s)
        found = torch.bmm(torch.exp(s, out=s), v)
        sums = -found[..., -1:].to(log_sums.dtype)
        out[:, rows] = found / sums
        log_sums[:, rows] = (highest + sums.log())[..., 0]
    return out, log_sums


def _key_columns(s0: int, s1: int, d: int, dtype: torch.dtype) -> Tensor:
    """(L, W): room for a key, the row and the column of its place as one of many, and -1 in the last two columns."""
    wanted = d + s0 + s1 + 2
    keys = torch.zeros(s0, s1, wanted + -wanted % 8, dtype=dtype)  # fused kernels like multiples of 8
    keys[..., d : d + s0] = torch.eye(s0, dtype=dtype)[:, None]
    keys[..., d + s0 : d + s0 + s1] = torch.eye(s1, dtype=dtype)
    keys[..., -2:] = -1
    return keys.flatten(0, 1)


def _over_heads(of_bias: Tensor, queries: Tensor) -> Tensor:
    """Gradient of a table (s, s, D) whose products with queries (m, s, t, D) are biases (m, s, t, s)."""
    return (of_bias.transpose(-1, -2) @ queries).sum(dim=0)


def _in_two(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(…) as two numbers of a shorter type whose sum it is, (…, 2)."""
    high = x.to(dtype)
    return torch.stack([high, (x - high).to(dtype)], dim=-1)
