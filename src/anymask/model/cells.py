"""What the two-way transformer does to every image cell of every prompt, in two forms that give the same numbers.

`CellBatch` holds all prompts in one tensor, for gradients, graphs and GPUs. `CellList` goes prompt by prompt: the cells
of one prompt (2 MB at 64×64 cells in bf16) stay in a processor's cache from one step to the next, and all prompts
share the buffers between the steps.

Shapes: P prompts, T tokens, H heads of width D, N = H·T rows, L cells, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anymask.model.layers import runs_eagerly_on_cpu


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


Cells = CellBatch | CellList


def goes_in_turn(x: Tensor) -> bool:
    """Is prompt by prompt faster here? Under autocast types are not known before a product, so no buffers then."""
    return runs_eagerly_on_cpu(x) and not torch.is_autocast_enabled("cpu")


def cells_of(keys: Tensor, pe: Tensor) -> Cells:
    """Cells (P, L, C) of every prompt in the form that suits; pe: (1, L, C)."""
    return CellList(keys.unbind(0), pe[0]) if goes_in_turn(keys) else CellBatch(keys, pe)


def first_update(keys: Tensor, queries: Tensor, pe: Tensor, k: Tensor, v: Tensor, norm: nn.LayerNorm) -> Cells:
    """The first time that cells attend to tokens: from one image for all prompts to cells for each.

    keys, pe: (1, L, C). queries: (1, H, L, D), projected and scaled. k: (P, H, T, D). v: (P, N, C).
    """
    num_heads = k.shape[1]
    if not goes_in_turn(k):
        logits = k @ queries.transpose(2, 3)  # (P, H, T, L)
        return CellBatch(_updated(keys, logits.flatten(1, 2), v, num_heads, norm), pe)
    columns, sums = queries[0].transpose(1, 2), torch.empty_like(keys[0])
    logits = k.new_empty(*k.shape[1:3], keys.shape[1])
    updated = []
    for rows, values in zip(k, v, strict=True):
        torch.bmm(rows, columns, out=logits)
        updated.append(_updated_in_turn(keys[0], logits.flatten(0, 1), values, num_heads, norm, sums))
    return CellList(updated, pe[0])


def _updated(keys: Tensor, logits: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm) -> Tensor:
    """Cells (1 or P, L, C) after attention by logits (P, N, L) to v (P, N, C)."""
    p, n, length = logits.shape
    attention = logits.reshape(p, num_heads, -1, length).softmax(dim=2).reshape(p, n, length)
    return norm(torch.baddbmm(keys.expand(p, -1, -1), attention.transpose(1, 2), v))


def _updated_in_turn(
    keys: Tensor, logits: Tensor, v: Tensor, num_heads: int, norm: nn.LayerNorm, sums: Tensor
) -> Tensor:
    """Cells (L, C) after attention by logits (N, L) to v (N, C). logits and sums (L, C) are overwritten."""
    by_head = logits.view(num_heads, -1, logits.shape[-1])
    torch.softmax(by_head, dim=1, out=by_head)
    return norm(torch.addmm(keys, logits.t(), v, out=sums))
