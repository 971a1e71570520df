"""The cells of the two-way transformer in training on a CPU: one prompt after the other, with gradients written out.

The same numbers as `cells.CellBatch` and its gradients by autograd, in half of the time: a prompt's cells stay
in a processor's cache, sums that autograd would write out and add again go into one product, and each thread takes
whole prompts. Weights of the attentions are kept for the backward pass, cells with positions are made again.

Shapes as in `cells`: P prompts, T tokens, H heads of width D, N = H·T rows, L cells, C width, R rows of a mask prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from anymask.model.threads import for_each


class CellsWithGradients:
    """The image side of P prompts, to be used by one step after the other.

    keys: P times (L, C). pe: (L, C), the positional code of the cells, a constant. placed: keys + pe, values only.
    """

    def __init__(self, keys: Sequence[Tensor], pe: Tensor, placed: Sequence[Tensor] | None = None) -> None:
        self.keys, self.pe = keys, pe
        self._placed = [key.detach() + pe for key in keys] if placed is None else placed

    def attended(self, q: Tensor) -> Tensor:
        """Rows q (P, N, C) attend to the cells: weighted means of the cells (P, N, C).

        What uses the cells next stands behind this step in the graph, so its gradient of them is added to in place.
        """
        out, *self.keys = _Attended.apply(q.to(self.pe.dtype), *self.keys, *self._placed)
        return out

    def updated(self, k: Tensor, bias: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm) -> CellsWithGradients:
        """Cells attend to tokens, see `CellBatch.updated`. k, v: (P, N, C). bias: (P, N, 1)."""
        k, bias, v = (x.to(self.pe.dtype) for x in (k, bias, v))
        words = k, bias, v, num_heads, norm.weight, norm.bias, norm.eps
        keys, placed = _in_parts(_Updated.apply(self.pe, *words, *self.keys, *self._placed), len(k))
        return CellsWithGradients(keys, self.pe, placed)


def attended_with_masks(
    q: Tensor, keys: Tensor, values: Tensor, thin: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """As in `cells`: means of the values (P, H, T, D), and of the masks' weights (P, N, R)."""
    found: tuple[Tensor, Tensor] = _AttendedWithMasks.apply(*(x.to(keys.dtype) for x in (q, keys, values, thin, w)))
    return found


def first_update(
    keys: Tensor, queries: Tensor, pe: Tensor, k: Tensor, v: Tensor, norm: nn.LayerNorm, thin: Tensor, w: Tensor
) -> CellsWithGradients:
    """As in `cells`, v with the rows of the masks behind it. thin, w: of no rows (R = 0) where there are no masks."""
    k, v, thin, w = (x.to(keys.dtype) for x in (k, v, thin, w))
    words = queries[0].to(keys.dtype), k, v, thin, w, norm.weight, norm.bias, norm.eps
    moved, placed = _in_parts(_FirstUpdate.apply(keys[0], pe[0], *words), len(k))
    return CellsWithGradients(moved, pe[0], placed)


def total(parts: Sequence[Tensor]) -> Tensor:
    """Sum of tensors of one shape, in float32 at least; by few numbers at a time, which stay in a cache."""
    summed = torch.empty_like(parts[0], dtype=torch.promote_types(parts[0].dtype, torch.float32))
    for sums, first, *others in zip(*(torch.split(x.view(-1), 2**16) for x in (summed, *parts)), strict=True):
        sums.copy_(first)
        for other in others:
            sums += other
    return summed


class _Attended(Function):
    """Gives the keys back besides: see `CellsWithGradients.attended`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, *cells: Tensor) -> tuple[Tensor, ...]:
        keys, placed = _in_parts(cells, len(q))
        out, shares = torch.empty_like(q), q.new_empty(*q.shape[:2], len(keys[0]))

        def work(i: int) -> None:
            rows = torch.mm(q[i], placed[i].t(), out=shares[i])
            torch.mm(torch.softmax(rows, dim=-1, out=rows), keys[i], out=out[i])

        for_each(work, len(q))
        ctx.save_for_backward(q, shares, *cells)
        return out, *keys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *grad_keys: Tensor) -> tuple[Tensor | None, ...]:
        q, shares, *cells = ctx.saved_tensors
        keys, placed = _in_parts(cells, len(q))
        grad, grad_q = grad.to(q.dtype), torch.empty_like(q)

        def work(i: int) -> None:
            of_logits = _softmax_gradient(grad[i] @ keys[i].t(), shares[i], -1)
            torch.mm(of_logits, placed[i], out=grad_q[i])
            as_both = torch.cat([shares[i], of_logits]).t()  # as values, and as keys
            grad_keys[i].addmm_(as_both, torch.cat([grad[i], q[i]]))

        for_each(work, len(q))
        return grad_q, *grad_keys, *(None for _ in placed)


class _Updated(Function):
    @staticmethod
    def forward(
        ctx: Any,
        pe: Tensor,
        k: Tensor,
        bias: Tensor,
        v: Tensor,
        num_heads: int,
        weight: Tensor,
        shift: Tensor,
        eps: float,
        *cells: Tensor,
    ) -> tuple[Tensor, ...]:
        keys, placed = _in_parts(cells, len(k))
        shares = k.new_empty(*k.shape[:2], len(pe))

        def work(i: int) -> tuple[Tensor, ...]:
            torch.mm(k[i], placed[i].t(), out=shares[i]).add_(bias[i])
            _over_tokens(shares[i], num_heads)
            return _normed(torch.addmm(keys[i], shares[i].t(), v[i]), weight, shift, eps, pe)

        moved, moved_placed, *kept = zip(*for_each(work, len(k)), strict=True)
        ctx.num_heads, ctx.num_prompts = num_heads, len(k)
        ctx.mark_non_differentiable(*moved_placed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(k, v, weight, shift, shares, *placed, *(x for each in kept for x in each))
        return *moved, *moved_placed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        k, v, weight, shift, shares, *rest = ctx.saved_tensors
        placed, *kept = _in_parts(rest, ctx.num_prompts)
        grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        grad_bias = k.new_empty(*k.shape[:2], 1)

        def work(i: int) -> tuple[Tensor, Tensor, Tensor]:
            of_sums, of_weight, of_shift = _norm_gradient(grads[i], kept, i, weight, shift)
            torch.mm(shares[i], of_sums, out=grad_v[i])
            of_logits = _over_tokens_gradient(v[i] @ of_sums.t(), shares[i], ctx.num_heads)
            torch.sum(of_logits, dim=1, keepdim=True, out=grad_bias[i])
            torch.mm(of_logits, placed[i], out=grad_k[i])
            return of_sums.addmm_(of_logits.t(), k[i]), of_weight, of_shift

        grad_keys, of_weights, of_shifts = zip(*for_each(work, len(k)), strict=True)
        of_norm = total(of_weights), total(of_shifts)
        return None, grad_k, grad_bias, grad_v, None, *of_norm, None, *grad_keys, *(None for _ in placed)


class _FirstUpdate(Function):
    @staticmethod
    def forward(
        ctx: Any,
        keys: Tensor,
        pe: Tensor,
        queries: Tensor,
        k: Tensor,
        v: Tensor,
        thin: Tensor,
        w: Tensor,
        weight: Tensor,
        shift: Tensor,
        eps: float,
    ) -> tuple[Tensor, ...]:
        (p, num_heads), (n, length) = k.shape[:2], (thin.shape[1], len(keys))
        shares, columns = k.new_empty(p, v.shape[1], length), queries.transpose(1, 2)

        def work(i: int) -> tuple[Tensor, ...]:
            rows = shares[i, :n]
            torch.bmm(k[i], columns, out=rows.view(num_heads, -1, length))
            if w.shape[1]:
                shares[i, n:] = w[i]
                rows.addmm_(thin[i], w[i])
            _over_tokens(rows, num_heads)
            return _normed(torch.addmm(keys, shares[i].t(), v[i]), weight, shift, eps, pe)

        moved, moved_placed, *kept = zip(*for_each(work, p), strict=True)
        ctx.mark_non_differentiable(*moved_placed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(queries, k, v, thin, w, weight, shift, shares, *(x for each in kept for x in each))
        return *moved, *moved_placed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, k, v, thin, w, weight, shift, shares, *rest = ctx.saved_tensors
        kept = _in_parts(rest, len(k))
        (p, num_heads), n = k.shape[:2], thin.shape[1]
        grad_k, grad_v, grad_thin, grad_w = (torch.empty_like(x) for x in (k, v, thin, w))

        def work(i: int) -> tuple[Tensor, ...]:
            of_sums, of_weight, of_shift = _norm_gradient(grads[i], kept, i, weight, shift)
            torch.mm(shares[i], of_sums, out=grad_v[i])
            of_shares = v[i] @ of_sums.t()
            of_logits = _over_tokens_gradient(of_shares[:n], shares[i, :n], num_heads)
            by_head = of_logits.view(num_heads, -1, of_logits.shape[1])
            torch.bmm(by_head, queries, out=grad_k[i])
            if w.shape[1]:
                torch.mm(of_logits, w[i].t(), out=grad_thin[i])
                torch.addmm(of_shares[n:], thin[i].t(), of_logits, out=grad_w[i])
            return of_sums, by_head.transpose(1, 2) @ k[i], of_weight, of_shift

        of_sums, of_queries, of_weights, of_shifts = zip(*for_each(work, p), strict=True)
        shared = total(of_sums), None, total(of_queries)
        return *shared, grad_k, grad_v, grad_thin, grad_w, total(of_weights), total(of_shifts), None


class _AttendedWithMasks(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, keys: Tensor, values: Tensor, thin: Tensor, w: Tensor
    ) -> tuple[Tensor, Tensor]:
        p, num_heads, t, _ = q.shape
        out, taken = torch.empty_like(q), torch.empty_like(thin)
        columns, rows = keys[0].transpose(1, 2).contiguous(), values[0].contiguous()  # or each product copies them
        shares = q.new_empty(p, num_heads * t, keys.shape[2])

        def work(i: int) -> None:
            by_head = shares[i].view(num_heads, t, -1)
            torch.bmm(q[i], columns, out=by_head)
            torch.softmax(shares[i].addmm_(thin[i], w[i]), dim=-1, out=shares[i])
            torch.bmm(by_head, rows, out=out[i])
            taken[i] = (w[i] @ shares[i].t()).t()  # the other way round takes three times as long

        for_each(work, p)
        ctx.save_for_backward(q, keys, values, thin, w, shares)
        return out, taken

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_taken: Tensor) -> tuple[Tensor, ...]:
        q, keys, values, thin, w, shares = ctx.saved_tensors
        p, num_heads, t, _ = q.shape
        grad_q, grad_thin, grad_w = (torch.empty_like(x) for x in (q, thin, w))
        columns, rows = values[0].transpose(1, 2).contiguous(), keys[0].contiguous()

        def work(i: int) -> tuple[Tensor, Tensor]:
            of_shares = torch.bmm(grad_out[i], columns).view(num_heads * t, -1).addmm_(grad_taken[i], w[i])
            of_logits = _softmax_gradient(of_shares, shares[i], -1)
            by_head, given = of_logits.view(num_heads, t, -1), shares[i].view(num_heads, t, -1)
            torch.bmm(by_head, rows, out=grad_q[i])
            grad_thin[i] = (w[i] @ of_logits.t()).t()
            torch.mm(torch.cat([thin[i], grad_taken[i]]).t(), torch.cat([of_logits, shares[i]]), out=grad_w[i])
            return by_head.transpose(1, 2) @ q[i], given.transpose(1, 2) @ grad_out[i]

        of_keys, of_values = zip(*for_each(work, p), strict=True)
        return grad_q, total(of_keys).unsqueeze(0), total(of_values).unsqueeze(0), grad_thin, grad_w


def _over_tokens(logits: Tensor, num_heads: int) -> None:
    """Softmax of (N, L) over the tokens of each head, in place."""
    by_head = logits.view(num_heads, -1, logits.shape[1])
    torch.softmax(by_head, dim=1, out=by_head)


def _over_tokens_gradient(grad: Tensor, shares: Tensor, num_heads: int) -> Tensor:
    by_head = (num_heads, -1, shares.shape[1])
    return _softmax_gradient(grad.view(by_head), shares.view(by_head), 1).view_as(shares)


def _softmax_gradient(grad: Tensor, shares: Tensor, dim: int) -> Tensor:
    return torch._softmax_backward_data(grad, shares, dim, shares.dtype)


def _normed(sums: Tensor, weight: Tensor, shift: Tensor, eps: float, pe: Tensor) -> tuple[Tensor, ...]:
    """The norm of rows (L, C), the same plus pe, and what its gradient needs: the rows, their means and rates."""
    normed, mean, rate = torch.native_layer_norm(sums, sums.shape[1:], weight, shift, eps)
    return normed, normed + pe, sums, mean, rate


def _norm_gradient(
    grad: Tensor, kept: Sequence[Sequence[Tensor]], i: int, weight: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows, the weight and the shift; kept: the last three that `_normed` gave for each prompt."""
    sums, mean, rate = (each[i] for each in kept)
    of_all: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), sums, sums.shape[1:], mean, rate, weight, shift, [True, True, True]
    )
    return of_all


def _in_parts(tensors: Sequence[Tensor], size: int) -> list[Sequence[Tensor]]:
    """One list after the other of `size` tensors each."""
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]
