"""Attention of the image encoder in training on a CPU: head by head and window by window, gradients written out.

The same numbers as `image_encoder.rel_pos_attention` between the cutting and the joining of windows, and its gradients
by autograd. The position is part of the dot product, see `_folded_attention` there. The backward pass goes over tiles
of keys, whose products with all queries need no sum over tiles but one; the logarithm of a row's sum and the mean of
its weights' gradients are columns of these products too, so that two passes over a tile are left, exp and times. Each
thread takes whole windows or heads.

Shapes: a window of s0×s1 = L places, c heads of width D at a time, W = D + s0 + s1 and what fills it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from anymask.core.processor import cpu_flags
from anymask.model.cell_gradients import each_prompt, total

TILE = 2**21  # scores; two tiles in bf16 are 8 MB: smaller ones pay more for the products, larger ones for memory


def attention_with_gradients(qkv: Tensor, padding: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention inside of windows: (B, h, w, 3, heads, D) to (B, h, w, heads·D).

    padding: (3, heads, D), what stands at places outside of the grid. rel_h: (s0, s0, D), rel_w: (s1, s1, D) from
    `relative_rows`, for windows of s0×s1 places.
    """
    rel_h, rel_w, padding = (x.to(qkv.dtype) for x in (rel_h, rel_w, padding))
    out: Tensor = _Attention.apply(qkv, padding, rel_h, rel_w)
    return out


@dataclass(frozen=True)
class _Part:
    """Some heads of a window of one image; rows and columns end where the grid ends."""

    image: int
    rows: slice
    columns: slice
    heads: slice

    def of(self, grid: Tensor) -> Tensor:
        """(y, x, …, c, D) of (B, h, w, …, heads, D)."""
        return grid[self.image, self.rows, self.columns, ..., self.heads, :]


def _parts(shape: torch.Size, s0: int, s1: int) -> Iterator[_Part]:
    b, h, w, _, num_heads, _ = shape
    together = max(1, min(num_heads, TILE // (s0 * s1) ** 2))
    for image in range(b):
        for y in range(0, h, s0):
            for x in range(0, w, s1):
                for head in range(0, num_heads, together):
                    heads = slice(head, min(head + together, num_heads))
                    yield _Part(image, slice(y, min(y + s0, h)), slice(x, min(x + s1, w)), heads)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, padding: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        (b, h, w, _, num_heads, d), s0, s1 = qkv.shape, len(rel_h), len(rel_w)
        parts, keys = list(_parts(qkv.shape, s0, s1)), _key_columns(s0, s1, d, qkv.dtype)
        out = qkv.new_empty(b, h, w, num_heads, d)

        def work(i: int) -> tuple[Tensor, Tensor, Tensor]:
            part = parts[i]
            whole, c = _in_window(part.of(qkv), padding[:, part.heads], s0, s1), padding[:, part.heads].shape[1]
            q, k, v = whole.permute(2, 3, 0, 1, 4)  # (c, s0, s1, D)
            folded_q = q.new_zeros(c, s0, s1, keys.shape[-1])
            torch.mul(q, d**-0.5, out=folded_q[..., :d])
            folded_q[..., d : d + s0] = q @ rel_h.transpose(1, 2)
            folded_q[..., d + s0 : d + s0 + s1] = (q.transpose(1, 2) @ rel_w.transpose(1, 2)).transpose(1, 2)
            folded_q = folded_q.flatten(1, 2)
            folded_k = keys.repeat(c, 1, 1)
            folded_k[..., :d] = k.flatten(1, 2)
            values = torch.cat([v.flatten(1, 2), v.new_full((c, s0 * s1, 2), -1)], dim=-1)
            found, log_sums = _attend(folded_q, folded_k, values)
            folded_q[..., -2:] = _in_two(log_sums, q.dtype)  # of use in the backward pass alone
            y, x = part.of(out).shape[:2]
            part.of(out).copy_(found[..., :d].unflatten(1, (s0, s1)).permute(1, 2, 0, 3)[:y, :x])
            return folded_q, folded_k, values

        kept = each_prompt(work, len(parts))
        ctx.parts = parts
        ctx.save_for_backward(rel_h, rel_w, out, *(x for each in kept for x in each))
        return out.flatten(3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        rel_h, rel_w, out, *kept = ctx.saved_tensors
        (b, h, w, num_heads, d), s0, s1 = out.shape, len(rel_h), len(rel_w)
        grad, grad_qkv = grad.view(out.shape), out.new_empty(b, h, w, 3, num_heads, d)
        nothing = out.new_zeros(num_heads, d)

        def work(i: int) -> tuple[Tensor, Tensor, Tensor]:
            part, (q, k, v) = ctx.parts[i], kept[3 * i : 3 * i + 3]
            c = len(q)
            given, found = (
                _in_window(part.of(x), nothing[:c], s0, s1).permute(2, 0, 1, 3).reshape(c, s0 * s1, d)
                for x in (grad, out)
            )
            of_q, of_k, of_v = _tiles_backward(q, k, v, given, found)
            whole = torch.stack([of_q[..., :d], of_k, of_v]).unflatten(2, (s0, s1))  # (3, c, s0, s1, D)
            queries = q[..., :d].unflatten(1, (s0, s1))  # times 1/√D
            of_h = of_q[..., d : d + s0].unflatten(1, (s0, s1))
            of_w = of_q[..., d + s0 : d + s0 + s1].unflatten(1, (s0, s1)).transpose(1, 2)
            whole[0].mul_(d**-0.5).add_(of_h @ rel_h).add_((of_w @ rel_w).transpose(1, 2))
            of_rel_h = (of_h.transpose(-1, -2) @ queries).sum(dim=0)
            of_rel_w = (of_w.transpose(-1, -2) @ queries.transpose(1, 2)).sum(dim=0)
            whole = whole.permute(2, 3, 0, 1, 4)
            y, x = part.of(out).shape[:2]
            part.of(grad_qkv).copy_(whole[:y, :x])
            of_padding = whole.new_zeros(3, num_heads, d, dtype=torch.promote_types(whole.dtype, torch.float32))
            of_padding[:, part.heads] = whole[y:].sum(dim=(0, 1)) + whole[:y, x:].sum(dim=(0, 1))
            return of_padding, of_rel_h, of_rel_w

        of_padding, of_rel_h, of_rel_w = map(total, zip(*each_prompt(work, len(ctx.parts)), strict=True))
        return grad_qkv, of_padding.to(out.dtype), of_rel_h * d**0.5, of_rel_w * d**0.5


def _tiles_backward(q: Tensor, k: Tensor, v: Tensor, given: Tensor, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the folded queries (c, L, W), of keys and of values (c, L, D); given, of found: (c, L, D)."""
    c, length, d = given.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    means = (given.to(wide) * found).sum(dim=-1)  # of the weights' gradients, weighted
    columns, of_columns = q.transpose(1, 2), torch.cat([given, _in_two(means, q.dtype)], dim=-1).transpose(1, 2)
    size = min(length, max(1, TILE // (c * length)))
    weights, scores = q.new_empty(2, c, size, length)
    of_q, of_k, of_v = torch.zeros_like(q), *q.new_empty(2, c, length, d)
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        p, s = weights[:, : rows.stop - start], scores[:, : rows.stop - start]  # (c, t, L)
        torch.exp(torch.bmm(k[:, rows], columns, out=p), out=p)
        torch.bmm(p, given, out=of_v[:, rows])
        torch.bmm(v[:, rows], of_columns, out=s).mul_(p)
        torch.bmm(s, q[..., :d], out=of_k[:, rows])
        of_q.baddbmm_(s.transpose(1, 2), k[:, rows])
    return of_q, of_k, of_v


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q·k) v (c, L, at least D), and the logarithm of every row's sum of exponents (c, L).

    v: (c, L, D + 2), -1 in the last columns.
    """
    if q.dtype == torch.bfloat16 and "amx_bf16" in cpu_flags():  # matrix units make up for the wider products
        v = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sums = fused(q[None], k[None], v[None], scale=1.0)
        return out[0], log_sums[0]
    c, length, _ = q.shape
    size = min(length, max(1, TILE // (c * length)))
    out, log_sums = torch.empty_like(v), v.new_empty(c, length, dtype=torch.promote_types(v.dtype, torch.float32))
    columns, scores = k.transpose(1, 2), q.new_empty(c, size, length)
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        s = scores[:, : rows.stop - start]
        highest = torch.bmm(q[:, rows], columns, out=s).amax(dim=-1, keepdim=True)
        found = torch.bmm(torch.exp(s.sub_(highest), out=s), v)
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


def _in_window(part: Tensor, padding: Tensor, s0: int, s1: int) -> Tensor:
    """(y, x, …) filled up to (s0, s1, …) with padding (…)."""
    y, x = part.shape[:2]
    if (y, x) == (s0, s1):
        return part
    whole = padding.repeat(s0, s1, *[1] * padding.dim())
    whole[:y, :x] = part
    return whole


def _in_two(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(…) as two numbers of a shorter type whose sum it is, (…, 2)."""
    high = x.to(dtype)
    return torch.stack([high, (x - high).to(dtype)], dim=-1)
