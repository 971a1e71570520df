"""The image side of many prompts on one image, never written out: what the image gives once, and a thin rest for each.

Before a layer norm a cell is a cell of the image plus a mix of a few token values, and the norm only shifts and scales
it. So all cells of a prompt are  s·e + wᵀE : e (L, C) is the image's, and the prompt has a scale s (L), weights w
(R, L) and values E (R, C), H·T rows of them for each layer it went through. Every product over the channels (keys,
queries, values, the first upscaling) is then one that the image had once, plus a thin one. Norms take means away, so e
and E have mean zero over the channels; what they divide by follows from

    |s·e + wᵀE|²  =  s²·|e|² + 2·s·Σ w·(E·e) + Σ w·(E Eᵀ w)

The numbers are those of `cells.CellList`, in about half of its arithmetic and with fewer passes over memory; but an
image has to be prepared, which costs as much as seven prompts save (docs/log.md).

Shapes: P prompts, T tokens, L cells, C width, H heads of width D, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.transformer import Attention, ImageTokens, SharedProjections, TwoWayAttentionBlock, TwoWayTransformer


@dataclass(frozen=True)
class Normed:
    """What one image gives to the cells after one layer norm.

    gained: (L, C) e times the norm's weight. asked, asking: for the attention of tokens on these cells, and of these
    cells on tokens in the same layer (None after the last layer).
    """

    norm: nn.LayerNorm
    gained: Tensor
    asked: Asked
    asking: Asking | None


@dataclass(frozen=True)
class Asked:
    """An image's part in tokens → image. keys, pe: (H, D, L). values: (H, L, D). shift: (H·D,) of every value."""

    keys: Tensor
    pe: Tensor
    values: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Asking:
    """An image's part in image → tokens. queries, pe: (H, D, L)."""

    queries: Tensor
    pe: Tensor


@dataclass(frozen=True)
class Update:
    """An image's part in the sum before a layer norm.

    power: (L,) float32, |e|². crosses: for this update and each before it the products E·e, but for the tokens' part:
    (H, D, L). constant: (C,) the row that the norm before and this projection's bias add; constants: (1, L) its product
    with e and those of the rows before it; the first update has none.
    """

    power: Tensor
    crosses: list[Tensor]
    constant: Tensor | None
    constants: list[Tensor]


@dataclass(frozen=True)
class LowRankImage:
    """One image, for all of its prompts without masks. first: of the first layer; the others by layer."""

    first: SharedProjections
    updates: list[Update]
    normed: list[Normed]
    pe: Tensor

    @property
    def num_cells(self) -> int:
        """L."""
        return int(self.pe.shape[0])

    @classmethod
    def of(cls, transformer: TwoWayTransformer, image: ImageTokens) -> LowRankImage:
        """From an image side that all prompts share."""
        assert image.shared is not None
        layers, pe = _layers(transformer), image.pe[0]
        updates: list[Update] = []
        normed: list[Normed] = []
        e = _centred(image.keys[0] + layers[0].cross_attn_image_to_token.out_proj.bias)
        for i, layer in enumerate(layers):
            to_token, norm = layer.cross_attn_image_to_token, layer.norm4
            before = [each.norm for each in normed]
            constant = _centred(before[-1].bias + to_token.out_proj.bias) if before else None
            past = [u.constant for u in updates if u.constant is not None]
            updates.append(_update(e, layers[: i + 1], before, constant, past))
            gained = e * norm.weight
            after = layers[i + 1] if i + 1 < len(layers) else None
            asked = transformer.final_attn_token_to_image if after is None else after.cross_attn_token_to_image
            asking = None if after is None else _asking(after.cross_attn_image_to_token, gained, pe + norm.bias)
            normed.append(Normed(norm, gained, _asked(asked, gained, pe, norm.bias), asking))
            e = _centred(gained)
        return cls(image.shared, updates, normed, pe)


def _update(
    e: Tensor,
    layers: Sequence[TwoWayAttentionBlock],
    norms: Sequence[nn.LayerNorm],
    constant: Tensor | None,
    past: Sequence[Tensor],
) -> Update:
    """layers: up to this one, with the norms between them. past: constant rows of the updates before."""
    crosses: list[Tensor] = []
    constants: list[Tensor] = []
    seen = e
    rows = [*past, constant] if constant is not None else []
    for i in reversed(range(len(layers))):  # what an old row has become is the same as what e would have to be for it
        attention = layers[i].cross_attn_image_to_token
        crosses.insert(0, _heads(attention, attention.out_proj.weight.t(), seen))
        if i:
            constants.insert(0, (seen @ rows[i - 1]).unsqueeze(0))
            seen = _centred(seen * norms[i - 1].weight)
    return Update(torch.linalg.vector_norm(e, dim=1, dtype=torch.float32).square(), crosses, constant, constants)


def _asked(attention: Attention, gained: Tensor, pe: Tensor, shift: Tensor) -> Asked:
    values = F.linear(gained, attention.v_proj.weight)
    return Asked(
        _heads(attention, attention.k_proj.weight, gained),
        _heads(attention, attention.k_proj.weight, pe),
        values.view(len(values), attention.num_heads, -1).transpose(0, 1).contiguous(),
        F.linear(shift, attention.v_proj.weight, attention.v_proj.bias),
    )


def _asking(attention: Attention, gained: Tensor, pe: Tensor) -> Asking:
    weight, bias = attention.q_proj.weight, attention.q_proj.bias.reshape(attention.num_heads, -1, 1)
    return Asking(_heads(attention, weight, gained), _heads(attention, weight, pe) + bias)


class LowRankCells:
    """The cells of P prompts: x = s·e + wᵀE before a norm, and after it rate·x·weight + bias.

    w: (P, R, L), of which the first `num_rows` are there. scale (s), rate: (P, L). values (E): (P, R, C); after the
    norm times its weight. All in the type of the image.
    """

    def __init__(self, image: LowRankImage, num_prompts: int, num_tokens: int) -> None:
        depth, like = len(image.updates), image.pe
        self.image = image
        most_rows = depth * image.first.queries.shape[1] * num_tokens + depth
        self.w = like.new_empty(num_prompts, most_rows, image.num_cells)
        self.scale = like.new_ones(num_prompts, image.num_cells)
        self.rate = like.new_ones(num_prompts, image.num_cells)
        self.values = like.new_empty(num_prompts, 0, like.shape[1])
        self.num_rows = 0
        self.heads: list[Tensor] = []  # of each update, the tokens' values (P, H, T, D)

    def __len__(self) -> int:
        return len(self.w)

    def update(self, attention: Attention, k: Tensor, v: Tensor) -> None:
        """Cells attend to tokens, and a norm follows. k, v: (P, T, C)."""
        step = len(self.heads)
        part, norm = self.image.updates[step], self.image.normed[step].norm
        k = attention.split_heads(attention.k_proj(k)).contiguous()  # (P, H, T, D)
        self.heads.append(attention.split_heads(attention.v_proj(v)).contiguous())
        if step:
            k = k * attention.scale
            thin, num_before = self._thin(k, attention.q_proj), self.num_rows
        self._add_rows(attention, part)
        gram = self.values @ self.values.transpose(1, 2)
        logits, pe_logits = _buffers(k, 2, self.image.num_cells)
        cross, product = self.w.new_empty(2, self.num_rows, self.image.num_cells)
        for i in range(len(self)):
            w, scale, rate = self.w[i, : self.num_rows], self.scale[i], self.rate[i]
            if step:
                asking = self.image.normed[step - 1].asking
                assert asking is not None
                self._logits(i, k[i], asking.queries, thin[i], num_before, logits)
                logits.mul_(rate).add_(torch.bmm(k[i], asking.pe, out=pe_logits))
                w[:num_before].mul_(rate)
                scale.mul_(rate)
            else:
                torch.bmm(k[i], self.image.first.queries[0].transpose(1, 2), out=logits)
            torch.softmax(logits, dim=1, out=w[-logits.shape[0] * logits.shape[1] :].view_as(logits))
            self._crosses(i, part, cross)
            torch.mm(gram[i], w, out=product)
            product.addcmul_(cross, scale, value=2).mul_(w)
            power = torch.addcmul(product.sum(dim=0, dtype=torch.float32), scale.float().square(), part.power)
            rate.copy_(power.div_(self.values.shape[2]).add_(norm.eps).rsqrt_())
        self.values = self.values * norm.weight

    def attended(self, attention: Attention, q: Tensor) -> Tensor:
        """Tokens (P, T, C) attend to the cells after their latest norm: (P, T, C)."""
        part = self.image.normed[len(self.heads) - 1].asked
        q = (attention.split_heads(attention.q_proj(q)) * attention.scale).contiguous()
        thin = self._thin(q, attention.k_proj)
        logits, pe_logits = _buffers(q, 2, self.image.num_cells)
        out, shares = torch.empty_like(q), q.new_empty(len(self), logits.shape[0] * logits.shape[1], self.num_rows)
        for i in range(len(self)):
            self._logits(i, q[i], part.keys, thin[i], self.num_rows, logits)
            logits.mul_(self.rate[i]).add_(torch.bmm(q[i], part.pe, out=pe_logits))
            torch.softmax(logits, dim=-1, out=logits).mul_(self.rate[i])
            torch.mm(logits.flatten(0, 1), self.w[i, : self.num_rows].t(), out=shares[i])
            torch.bmm(logits.mul_(self.scale[i]), part.values, out=out[i])
        rows = attention.split_heads(F.linear(self.values, attention.v_proj.weight))  # (P, H, R, D)
        out += shares.view(*q.shape[:3], -1) @ rows
        return cast(Tensor, attention.out_proj(attention.merge_heads(out) + part.shift))

    def _add_rows(self, attention: Attention, part: Update) -> None:
        """Rows for one more update: what the norm before shifted, and the tokens' values."""
        p, _, c = self.values.shape
        v = self.heads[-1]
        moved = v @ attention.out_proj.weight.t().reshape(v.shape[1], v.shape[3], c)  # (P, H, T, C)
        rows = [_centred(self.values), _centred(moved).reshape(p, -1, c)]
        if part.constant is not None:
            rows.insert(1, part.constant.expand(p, 1, -1))
            self.w[:, self.num_rows] = 1
        self.values = torch.cat(rows, dim=1)
        self.num_rows = self.values.shape[1]

    def _thin(self, x: Tensor, linear: nn.Linear) -> Tensor:
        """Heads x (P, H, T, D) of tokens, against each row through `linear` of the cells: (P, H·T, R)."""
        moved = x @ linear.weight.reshape(x.shape[1], x.shape[3], -1)
        return moved.flatten(1, 2) @ self.values.transpose(1, 2)

    def _logits(self, i: int, x: Tensor, image_side: Tensor, thin: Tensor, num_rows: int, out: Tensor) -> None:
        """x (H, T, D) against the cells before their rate: (H, T, L)."""
        torch.bmm(x, image_side, out=out).mul_(self.scale[i])
        out.flatten(0, 1).addmm_(thin, self.w[i, :num_rows])

    def _crosses(self, i: int, part: Update, out: Tensor) -> None:
        """E·e of every row, (R, L)."""
        at = 0
        for step, image_side in enumerate(part.crosses):
            if step:
                out[at] = part.constants[step - 1][0]
                at += 1
            rows = self.heads[step][i]
            end = at + rows.shape[0] * rows.shape[1]
            torch.bmm(rows, image_side, out=out[at:end].view(*rows.shape[:2], -1))
            at = end


class ThroughLinear:
    """The cells of P prompts after their last norm and a linear layer, for one prompt after the other."""

    def __init__(self, cells: LowRankCells, weight: Tensor, bias: Tensor) -> None:
        """weight: (N, C). bias: (N,)."""
        normed = cells.image.normed[-1]
        self.cells, self.base = cells, F.linear(normed.gained, weight)
        shift = F.linear(normed.norm.bias, weight, bias).expand(len(cells), 1, -1)
        self.values = torch.cat([F.linear(cells.values, weight), shift], dim=1)
        cells.w[:, cells.num_rows :] = 1

    def of(self, i: int, wanted: slice | Tensor) -> Tensor:
        """Those of prompt i that are `wanted`, (K, N). May be asked for once."""
        cells, rate = self.cells, self.cells.rate[i]
        w = cells.w[i, : cells.num_rows + 1]
        w[:-1].mul_(rate)
        scale = picked(cells.scale[i] * rate, wanted).unsqueeze(1)
        return torch.addmm(picked(self.base, wanted) * scale, picked(w, wanted, dim=1).t(), self.values[i])


def picked(x: Tensor, wanted: slice | Tensor, dim: int = 0) -> Tensor:
    """Rows of x, or columns for dim = 1. By `index_select`, which is eight times as fast as indexing on a CPU."""
    return x[(slice(None),) * dim + (wanted,)] if isinstance(wanted, slice) else x.index_select(dim, wanted)


def run_low_rank(
    transformer: TwoWayTransformer, image: LowRankImage, point_embedding: Tensor, chosen: slice
) -> tuple[Tensor, LowRankCells]:
    """As `TwoWayTransformer.forward`: tokens (P, 1 + M, C) and cells after all layers; point_embedding: (P, T, C)."""
    tokens = token_pe = point_embedding
    cells = LowRankCells(image, *point_embedding.shape[:2])
    for i, layer in enumerate(_layers(transformer)):
        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        tokens = layer.update_tokens(tokens, token_pe)
        q = tokens + token_pe
        if i:
            attended = cells.attended(to_image, q)
        else:
            attended = to_image.tokens_on_shared_image(q, image.first.token_keys, image.first.token_values)
        tokens = layer.finish_tokens(tokens, attended)
        cells.update(to_token, tokens + token_pe, tokens)
    return transformer.last_tokens(tokens, token_pe, chosen, cells.attended), cells


def _layers(transformer: TwoWayTransformer) -> list[TwoWayAttentionBlock]:
    return [cast(TwoWayAttentionBlock, layer) for layer in transformer.layers]


def _centred(x: Tensor) -> Tensor:
    """Less its mean over the channels."""
    return x - x.mean(dim=-1, keepdim=True)


def _heads(attention: Attention, weight: Tensor, cells: Tensor) -> Tensor:
    """Cells (L, C) through a weight (H·D, C): (H, D, L)."""
    return (weight @ cells.t()).view(attention.num_heads, -1, len(cells))


def _buffers(x: Tensor, count: int, length: int) -> Tensor:
    """`count` times logits (H, T, L) for heads x (P, H, T, D)."""
    return x.new_empty(count, *x.shape[1:3], length)
