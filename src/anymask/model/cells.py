"""What the two-way transformer does to every image cell of every prompt, in three forms that give the same numbers.

`CellBatch` holds all prompts in one tensor, for graphs and GPUs. `CellList` goes prompt by prompt: the cells of one
prompt (2 MB at 64×64 cells in bf16) stay in a processor's cache from one step to the next, and all prompts share the
buffers between the steps. `CellsWithGradients` does so in training (`cell_gradients`).

A mask prompt adds to every cell of its image a mix of few rows (`MaskPart`), so that the cells before the first update
need not be written out: what they share is projected once an image, and a thin product gives the rest.

Shapes: P prompts, T tokens, H heads of width D, N = H·T rows, L cells, C width, R rows of a mask prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anymask.model import cell_gradients
from anymask.model.cell_gradients import CellsWithGradients
from anymask.model.layers import computes_on_cpu, runs_eagerly_on_cpu


@dataclass(frozen=True)
class MaskPart:
    """What P mask prompts add to the cells (L, C) of their image: wᵀ rows. w: (P, R, L). rows: (R, C)."""

    w: Tensor
    rows: Tensor

    def each_of(self, num_prompts: int) -> MaskPart:
        """One mask for all prompts, or one for each, as one for each."""
        return MaskPart(self.w.expand(num_prompts, -1, -1), self.rows)


class CellBatch:
    """The image side of P prompts in one tensor. keys: (P, L, C). pe: (1, L, C), the positional code of the cells."""

    def __init__(self, keys: Tensor, pe: Tensor) -> None:
        self.keys, self.pe = keys, pe
        self._keys_pe = keys + pe

    def attended(self, q: Tensor) -> Tensor:
        """Rows q (P, N, C) attend to the cells: weighted means of the cells (P, N, C)."""
        return (q @ self._keys_pe.transpose(1, 2)).softmax(dim=-1) @ self.keys

    def updated(self, k: Tensor, bias: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm) -> CellBatch:
        """Cells attend to tokens: norm(cells + Σ over heads of softmax over tokens of (cells·k + bias) times v).

        k, v: (P, N, C). bias: (P, N, 1).
        """
        logits = k @ self._keys_pe.transpose(1, 2) + bias  # (P, N, L)
        return CellBatch(_updated(self.keys, logits, v, num_heads, norm), self.pe)


class CellList:
    """The same, one prompt after the other and without gradients. keys: P times (L, C). pe: (L, C)."""

    def __init__(self, keys: Sequence[Tensor], pe: Tensor) -> None:
        self.keys, self.pe = keys, pe

    def attended(self, q: Tensor) -> Tensor:
        out, keys_pe = torch.empty_like(q), torch.empty_like(self.pe)
        logits = q.new_empty(q.shape[1], len(self.pe))
        for rows, keys, mean in zip(q, self.keys, out, strict=True):
            torch.add(keys, self.pe, out=keys_pe)
            torch.mm(rows, keys_pe.t(), out=logits)
            torch.mm(torch.softmax(logits, dim=-1, out=logits), keys, out=mean)
        return out

    def updated(self, k: Tensor, bias: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm) -> CellList:
        keys_pe, sums = torch.empty_like(self.pe), torch.empty_like(self.pe)
        logits = k.new_empty(k.shape[1], len(self.pe))
        keys = []
        for i, before in enumerate(self.keys):
            torch.add(before, self.pe, out=keys_pe)
            torch.mm(k[i], keys_pe.t(), out=logits).add_(bias[i])
            keys.append(_updated_in_turn(before, logits, v[i], num_heads, norm, sums))
        return CellList(keys, self.pe)


Cells = CellBatch | CellList | CellsWithGradients


def goes_in_turn(x: Tensor) -> bool:
    """Is prompt by prompt faster here? Under autocast types are not known before a product, so no buffers then."""
    return runs_eagerly_on_cpu(x) and not torch.is_autocast_enabled("cpu")


def learns_in_turn(x: Tensor) -> bool:
    """Is this training on a CPU?"""
    return computes_on_cpu(x) and torch.is_grad_enabled()


def cells_of(keys: Tensor, pe: Tensor) -> Cells:
    """Cells (P, L, C) of every prompt in the form that suits; pe: (1, L, C)."""
    if learns_in_turn(keys):
        return CellsWithGradients(keys.unbind(0), pe[0])
    return CellList(keys.unbind(0), pe[0]) if goes_in_turn(keys) else CellBatch(keys, pe)


def attended_with_masks(
    q: Tensor, keys: Tensor, values: Tensor, thin: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries (P, H, T, D) attend to one image's projected cells and what masks add: means of the values
    (P, H, T, D), and of the masks' weights (P, N, R).

    keys, values: (1, H, L, D). thin: (P, N, R), the queries against the rows of the masks. w: (P, R, L).
    """
    if learns_in_turn(keys):
        return cell_gradients.attended_with_masks(q, keys, values, thin, w)
    columns = keys.transpose(2, 3)
    if not goes_in_turn(q):
        logits = (q @ columns).flatten(1, 2) + thin @ w  # (P, N, L)
        shares = logits.softmax(dim=-1)
        return shares.view(*q.shape[:3], -1) @ values, shares @ w.transpose(1, 2)
    out, taken = torch.empty_like(q), torch.empty_like(thin.transpose(1, 2), memory_format=torch.contiguous_format)
    logits = q.new_empty(*q.shape[1:3], keys.shape[2])
    rows = logits.flatten(0, 1)
    for i, each in enumerate(q):
        torch.bmm(each, columns[0], out=logits)
        torch.softmax(rows.addmm_(thin[i], w[i]), dim=-1, out=rows)
        torch.bmm(logits, values[0], out=out[i])
        torch.mm(w[i], rows.t(), out=taken[i])  # the other way round takes three times as long
    return out, taken.transpose(1, 2)


def first_update(
    keys: Tensor,
    queries: Tensor,
    pe: Tensor,
    k: Tensor,
    v: Tensor,
    norm: nn.LayerNorm,
    thin: Tensor | None = None,
    masks: MaskPart | None = None,
) -> Cells:
    """The first time that cells attend to tokens: from one image for all prompts to cells for each.

    keys, pe: (1, L, C). queries: (1, H, L, D), projected and scaled. k: (P, H, T, D). v: (P, N, C). thin: (P, N, R),
    the tokens against the rows of the masks.
    """
    num_heads, num_rows = k.shape[1], v.shape[1]
    if masks is not None:
        v = torch.cat([v, masks.rows.expand(v.shape[0], -1, -1)], dim=1)
    if learns_in_turn(keys):
        nothing = keys.new_empty(len(k), num_rows, 0), keys.new_empty(len(k), 0, keys.shape[1])
        thin_w = nothing if masks is None or thin is None else (thin, masks.w)
        return cell_gradients.first_update(keys, queries, pe, k, v, norm, *thin_w)
    if not goes_in_turn(k):
        logits = (k @ queries.transpose(2, 3)).flatten(1, 2)  # (P, N, L)
        if masks is None or thin is None:
            return CellBatch(_updated(keys, logits, v, num_heads, norm), pe)
        shares = _over_tokens(logits + thin @ masks.w, num_heads)
        return CellBatch(_moved(keys, torch.cat([shares, masks.w], dim=1), v, norm), pe)
    columns, sums = queries[0].transpose(1, 2), torch.empty_like(keys[0])
    weights = k.new_empty(v.shape[1], keys.shape[1])
    logits = weights[:num_rows]
    by_head = logits.view(num_heads, -1, keys.shape[1])
    updated = []
    for i, rows in enumerate(k):
        torch.bmm(rows, columns, out=by_head)
        if masks is not None and thin is not None:
            weights[num_rows:] = masks.w[i]
            logits.addmm_(thin[i], masks.w[i])
        torch.softmax(by_head, dim=1, out=by_head)
        updated.append(norm(torch.addmm(keys[0], weights.t(), v[i], out=sums)))
    return CellList(updated, pe[0])


def _updated(keys: Tensor, logits: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm) -> Tensor:
    """Cells (1 or P, L, C) after attention by logits (P, N, L) to v (P, N, C)."""
    return _moved(keys, _over_tokens(logits, num_heads), v, norm)


def _over_tokens(logits: Tensor, num_heads: int) -> Tensor:
    """Softmax of (P, N, L) over the tokens of each head."""
    p, n, length = logits.shape
    return logits.reshape(p, num_heads, -1, length).softmax(dim=2).reshape(p, n, length)


def _moved(keys: Tensor, weights: Tensor, v: Tensor, norm: nn.LayerNorm) -> Tensor:
    """norm(cells + weightsᵀ v): cells (1 or P, L, C), weights (P, N, L), v (P, N, C)."""
    return norm(torch.baddbmm(keys.expand(v.shape[0], -1, -1), weights.transpose(1, 2), v))


def _updated_in_turn(
    keys: Tensor, logits: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm, sums: Tensor
) -> Tensor:
    """Cells (L, C) after attention by logits (N, L) to v (N, C). logits and sums (L, C) are overwritten."""
    by_head = logits.view(num_heads, -1, logits.shape[-1])
    torch.softmax(by_head, dim=1, out=by_head)
    return norm(torch.addmm(keys, logits.t(), v, out=sums))
