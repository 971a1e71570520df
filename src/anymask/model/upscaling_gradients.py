"""The decoder's upscaling in training on a CPU: one prompt after the other, with gradients written out.

The same numbers as autograd's through `MaskDecoder._upscale`; each thread takes whole prompts, whose cells stay in a
processor's cache. See `cell_gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from anymask.model.cell_gradients import total
from anymask.model.layers import in_one_order
from anymask.model.threads import for_each


def upscaled_masks(
    cells: Sequence[Tensor],
    hyper: Tensor,
    first: tuple[Tensor, Tensor],
    norm: tuple[Tensor, Tensor, float],
    second: tuple[Tensor, Tensor],
    size_hw: tuple[int, int],
) -> Tensor:
    """Logits (P, M, 4h, 4w) of cells, P times (L = h·w, C), times hyper (P, M, C/8).

    first, second: the transposed convolutions as weight and bias of a product, (C, C) and (C/2, C/4). norm: weight and
    bias (C/4), and epsilon.
    """
    out: Tensor = _Upscaled.apply(hyper, *first, *second, *norm, size_hw, *cells)
    return out


class _Upscaled(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hyper: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        size_hw: tuple[int, int],
        *cells: Tensor,
    ) -> Tensor:
        (h, w), width = size_hw, len(scale)
        hyper, weight1, bias1, weight2, bias2 = (x.to(cells[0].dtype) for x in (hyper, weight1, bias1, weight2, bias2))
        out = hyper.new_empty(*hyper.shape[:2], 4 * h, 4 * w)

        def work(i: int) -> tuple[Tensor, ...]:
            x = torch.addmm(bias1, cells[i], weight1.t()).view(-1, width)  # (4·L, C/4)
            y, mean, rate = torch.native_layer_norm(x, (width,), scale, shift, eps)
            a = F.gelu(y)
            z = torch.addmm(bias2, a, weight2.t())  # (4·L, C/2)
            u = F.gelu(z)
            logits, picture = in_one_order(torch.mm(hyper[i], u.view(-1, hyper.shape[2]).t()), out[i])
            picture.copy_(logits)
            return x, mean, rate, y, a, z, u

        kept = for_each(work, len(cells))
        ctx.num_prompts = len(cells)
        ctx.save_for_backward(hyper, weight1, weight2, scale, shift, *cells, *(x for each in kept for x in each))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hyper, weight1, weight2, scale, shift, *rest = ctx.saved_tensors
        cells, kept = rest[: ctx.num_prompts], rest[ctx.num_prompts :]
        grad, grad_hyper, width = grad.to(hyper.dtype).contiguous(), torch.empty_like(hyper), len(scale)

        def work(i: int) -> tuple[Tensor, ...]:
            x, mean, rate, y, a, z, u = kept[7 * i : 7 * i + 7]
            of_logits = grad.new_empty(len(grad[i]), u.numel() // hyper.shape[2])
            given, picture = in_one_order(of_logits, grad[i])
            given.copy_(picture)
            in_16 = of_logits.view(len(of_logits), 16, -1).transpose(0, 1), u.view(16, -1, hyper.shape[2])
            grad_hyper[i] = torch.bmm(*in_16).sum(dim=0)  # one long product takes twice the time
            of_u = torch.mm(of_logits.t(), hyper[i]).view_as(z)
            of_z = torch.ops.aten.gelu_backward(of_u, z)
            of_y = torch.ops.aten.gelu_backward(of_z @ weight2, y)
            of_x, of_scale, of_shift = torch.ops.aten.native_layer_norm_backward(
                of_y, x, (width,), mean, rate, scale, shift, [True, True, True]
            )
            of_x = of_x.view(len(cells[i]), -1)
            of_first, of_second = (of_x.t() @ cells[i], of_x.sum(dim=0)), (of_z.t() @ a, of_z.sum(dim=0))
            return of_x @ weight1, *of_first, *of_second, of_scale, of_shift

        of_cells, *of_rest = zip(*for_each(work, len(cells)), strict=True)
        return grad_hyper, *map(total, of_rest), None, None, *of_cells
