"""The mask decoder for one prompt at a time in a browser: the model's own layers, with their products in another order.

A page answers one prompt on a processor without wide vectors, where passes over all cells and the upscaling cost most.
Four facts save two thirds of the work; `tests/test_export_thin.py` holds the result to the model's:

- What a layer adds to the cells has few dimensions: x = image + Aᵀ·V, with A (H·T, L) the attention weights and V
  (H·T, C) the values. So W·x = W·image + Aᵀ·(V·W), and W·image is computed once per image (`ThinPrepare`).
- A layer norm of the cells is a scale and a shift for each cell. Both commute with products over the channels, and go to
  the (H·T, L) side. The normalised cells are never written.
- Positional codes meet the tokens already projected (`Positions`), once per size of the grid.
- Only cells that show the photo are upscaled, and only the masks that are asked for.

Shapes: L = h·w cells, C width, H heads, D head width, T tokens, M masks that are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.layers import LayerNorm2d
from anymask.model.mask_decoder import MaskDecoder
from anymask.model.sam import Sam
from anymask.model.smooth import smooth_logits
from anymask.model.transformer import Attention, TwoWayAttentionBlock

POSITIONS = ("pe", "key_pe", "query_pe", "last_pe")
PREPARED = ("cells", "token_keys", "token_values", "queries", "upscaled")


@dataclass(frozen=True)
class Normed:
    """Cells after a layer norm, as `x` (L, C) before it with its mean and 1 / deviation (L, 1), gain and shift (C,)."""

    x: Tensor
    mean: Tensor
    rate: Tensor
    norm: nn.LayerNorm

    @classmethod
    def of(cls, x: Tensor, norm: nn.LayerNorm) -> Normed:
        """The statistics of x."""
        mean = x.mean(dim=1, keepdim=True)
        power = torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1]
        return cls(x, mean, (power - mean.square() + norm.eps).rsqrt(), norm)

    def dot(self, q: Tensor) -> Tensor:
        """q (N, C) times the cells: (N, L)."""
        q_gain = q * self.norm.weight
        product = q_gain @ self.x.t() - q_gain.sum(dim=1, keepdim=True) * self.mean.t()
        return product * self.rate.t() + (q @ self.norm.bias).unsqueeze(1)

    def mix(self, weights: Tensor) -> Tensor:
        """Weighted sums of the cells, weights (N, L) that add up to one: (N, C)."""
        weights = weights * self.rate.t()
        return (weights @ self.x - weights @ self.mean) * self.norm.weight + self.norm.bias


class Positions(nn.Module):
    """rows (h,) and columns (w,), numbers from 0: the positional code, and what the layers make of it (`POSITIONS`)."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        h, w = rows.shape[0], columns.shape[0]
        y = ((rows + 0.5) / h).unsqueeze(1).expand(h, w)
        x = ((columns + 0.5) / w).unsqueeze(0).expand(h, w)
        pe = self.sam.prompt_encoder.pe_layer.encode(torch.stack([x, y], dim=-1))
        _, second, last = _layers(self.sam)
        to_image, to_token = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        keys = F.linear(pe, to_image.k_proj.weight)  # their bias adds the same to all logits of a query
        queries = to_token.q_proj(pe) * to_token.scale
        return pe, _heads(keys, to_image), _heads(queries, to_token), _heads(F.linear(pe, last.k_proj.weight), last)


class ThinPrepare(nn.Module):
    """image_embeddings (1, C, h, w) and pe (h, w, C) to the tensors of `PREPARED`; once per image."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image_embeddings: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
        cells = image_embeddings[0].permute(1, 2, 0) + self.sam.prompt_encoder.no_mask_embed.weight
        return cells, *_projected(self.sam, cells, pe)


class ThinDecode(nn.Module):
    """Masks (M, 4·rows, 4·columns) of the shown cells and predicted IoU (M,) for one prompt of N point slots.

    rows, columns: numbers of the shown cells. wanted (M,): which of the four masks. masked: with a mask prompt.
    """

    def __init__(self, sam: Sam, masked: bool) -> None:
        super().__init__()
        self.sam = sam
        self.masked = masked

    def forward(
        self,
        image: list[Tensor],
        positions: list[Tensor],
        point_coords: Tensor,
        point_labels: Tensor,
        rows: Tensor,
        columns: Tensor,
        wanted: Tensor,
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        decoder = self.sam.mask_decoder
        pe, key_pe, query_pe, last_pe = positions
        if mask_input is not None:
            encoder = self.sam.prompt_encoder
            cells = image[0] - encoder.no_mask_embed.weight + encoder.embed_masks(mask_input)[0].permute(1, 2, 0)
            image = [cells, *_projected(self.sam, cells, pe)]
        cells, token_keys, token_values, queries, upscaled = image
        first, second, last = _layers(self.sam)

        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).unsqueeze(0)
        token_pe = torch.cat([output_tokens, self.sam.prompt_encoder.embed_tokens(point_coords, point_labels)], dim=1)
        tokens = first.update_tokens(token_pe, token_pe)
        attention, to_token = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        weights = (_queries(attention, tokens + token_pe) @ token_keys.flatten(2)).softmax(dim=-1)  # (H, T, L)
        attended = weights @ token_values.flatten(1, 2)  # (H, T, D)
        tokens = first.finish_tokens(tokens, attention.out_proj(attention.merge_heads(attended.unsqueeze(0))))
        keys = to_token.split_heads(to_token.k_proj(tokens + token_pe))[0]
        to_cells = _softmax_over_tokens(keys @ queries.flatten(2))  # (H·T, L)
        values = _values(to_token, tokens)
        seen = Normed.of(torch.addmm(cells.flatten(0, 1), to_cells.t(), values), first.norm4)

        tokens = second.update_tokens(tokens, token_pe)
        attention, to_token = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        tokens = second.finish_tokens(tokens, _on_cells(attention, tokens + token_pe, seen, key_pe))
        keys = to_token.split_heads(to_token.k_proj(tokens + token_pe))[0]
        logits = seen.dot(_moved(keys, to_token.q_proj) * to_token.scale)
        to_cells2 = _softmax_over_tokens(logits.reshape(keys.shape[0], keys.shape[1], -1) + keys @ query_pe.flatten(2))
        values2 = _values(to_token, tokens)
        ones = torch.ones_like(seen.mean.t())
        x = seen.x * seen.rate * first.norm4.weight
        sides = torch.cat([to_cells2, -(seen.mean * seen.rate).t(), ones])
        x = torch.addmm(x, sides.t(), torch.cat([values2, first.norm4.weight[None], first.norm4.bias[None]]))
        seen2 = Normed.of(x, second.norm4)

        chosen = torch.cat([torch.zeros_like(wanted[:1]), wanted + 1])
        tokens, token_pe = tokens.index_select(1, chosen), token_pe.index_select(1, chosen)
        tokens = tokens + _on_cells(last, tokens + token_pe, seen2, last_pe)
        tokens = decoder.transformer.norm_final_attn(tokens)
        heads = torch.stack([mlp(tokens[0, 1:]) for mlp in decoder.output_hypernetworks_mlps])  # (4, M, C/8)
        mine = wanted.reshape(1, -1, 1).expand(1, -1, heads.shape[2])
        hyper = heads.gather(0, mine)[0]
        iou = decoder.iou_prediction_head(tokens[:, 0])[0].index_select(0, wanted)

        rate = seen.rate * seen2.rate
        change = _Change(upscaled, rate, sides, seen, seen2, to_cells, values, values2)
        return change.masks(self.sam, hyper, rows, columns), iou


@dataclass(frozen=True)
class _Change:
    """What the two layers did to the cells, as the upscaling needs it."""

    upscaled: Tensor  # (h, w, C): the image through both gains and the first transposed convolution
    rate: Tensor  # (L, 1)
    sides: Tensor  # (H·T + 2, L): second weights, shift and one
    seen: Normed
    seen2: Normed
    to_cells: Tensor  # (H·T, L)
    values: Tensor  # (H·T, C)
    values2: Tensor

    def masks(self, sam: Sam, hyper: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits (M, 4·rows, 4·columns) for hyper (M, C/8)."""
        decoder = sam.mask_decoder
        up1, layer_norm, _, up2, _ = decoder.output_upscaling
        assert isinstance(up1, nn.ConvTranspose2d) and isinstance(up2, nn.ConvTranspose2d)
        norm = cast(LayerNorm2d, layer_norm)
        gain, gain2 = self.seen.norm.weight, self.seen2.norm.weight
        weight, bias = _centred(up1)  # (C, 4·C/4), (4·C/4)
        (h, w), r, c = self.upscaled.shape[:2], rows.shape[0], columns.shape[0]
        torch._check(r <= h)
        torch._check(c <= w)
        rate2 = self.seen2.rate.t()
        left = torch.cat([self.to_cells * self.rate.t(), self.sides * rate2, -self.seen2.mean.t() * rate2])
        right = torch.cat(
            [
                (self.values * gain) * gain2,
                self.values2 * gain2,
                (gain * gain2)[None],
                (self.seen.norm.bias * gain2)[None],
                gain2[None],
            ]
        )
        right = right @ weight  # (2·H·T + 3, C)
        bias = bias + self.seen2.norm.bias @ weight
        left = left.reshape(-1, h, w).narrow(1, 0, r).narrow(2, 0, c).flatten(1)
        image = self.upscaled.narrow(0, 0, r).narrow(1, 0, c)
        image = image * self.rate.reshape(h, w, 1).narrow(0, 0, r).narrow(1, 0, c)
        x = torch.addmm(image.flatten(0, 1), left.t(), right) + bias
        x = x.reshape(-1, norm.weight.shape[0])  # (L'·4, C/4), each of mean 0
        power = torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1]
        x = F.gelu(x * (power + norm.eps).rsqrt() * norm.weight + norm.bias, approximate="tanh")
        assert up2.bias is not None
        x = F.gelu(x @ _as_product(up2).t() + up2.bias.repeat(4), approximate="tanh")
        x = x.reshape(-1, hyper.shape[1]) @ hyper.t()  # (L'·16, M)
        x = x.reshape(r, c, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5).reshape(-1, 4 * r, 4 * c)
        return smooth_logits(x.unsqueeze(0))[0] if decoder.smooth else x


def _layers(sam: Sam) -> tuple[TwoWayAttentionBlock, TwoWayAttentionBlock, Attention]:
    transformer = sam.mask_decoder.transformer
    first, second = transformer.layers
    return (
        cast(TwoWayAttentionBlock, first),
        cast(TwoWayAttentionBlock, second),
        transformer.final_attn_token_to_image,
    )


def _projected(sam: Sam, cells: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
    """`PREPARED` without the first, of cells (h, w, C)."""
    first, second, _ = _layers(sam)
    to_image, to_token = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    token_keys = _heads(to_image.k_proj(cells + pe), to_image)
    token_values = _heads(to_image.v_proj(cells), to_image).permute(0, 2, 3, 1)
    queries = _heads(to_token.q_proj(cells + pe) * to_token.scale, to_token)
    up1 = sam.mask_decoder.output_upscaling[0]
    weight, _ = _centred(cast(nn.ConvTranspose2d, up1))
    gains = cast(Tensor, first.norm4.weight * second.norm4.weight)
    return token_keys, token_values, queries, cells @ (gains[:, None] * weight)


def _heads(x: Tensor, attention: Attention) -> Tensor:
    """(h, w, H·D) to (H, D, h, w)."""
    h, w, c = x.shape
    return x.permute(2, 0, 1).reshape(attention.num_heads, c // attention.num_heads, h, w)


def _queries(attention: Attention, tokens: Tensor) -> Tensor:
    """Scaled queries (H, T, D) of tokens (1, T, C)."""
    return attention.split_heads(attention.q_proj(tokens) * attention.scale)[0]


def _moved(x: Tensor, linear: nn.Linear) -> Tensor:
    """x (H, T, D) through the transpose of an input projection: (H·T, C)."""
    return (x @ linear.weight.reshape(x.shape[0], x.shape[2], -1)).flatten(0, 1)


def _values(attention: Attention, tokens: Tensor) -> Tensor:
    """What a cell takes over from a token through a head, output projection and its bias included: (H·T, C)."""
    v = attention.split_heads(attention.v_proj(tokens))[0]  # (H, T, D)
    out = attention.out_proj.weight.t().reshape(v.shape[0], v.shape[2], -1)
    return (v @ out + attention.out_proj.bias / attention.num_heads).flatten(0, 1)


def _softmax_over_tokens(logits: Tensor) -> Tensor:
    """(H, T, L), over the tokens: (H·T, L)."""
    return logits.softmax(dim=1).flatten(0, 1)


def _on_cells(attention: Attention, tokens: Tensor, cells: Normed, pe: Tensor) -> Tensor:
    """Tokens (1, T, C) attend to normalised cells, `pe` (H, D, h, w) the projected positional code: (1, T, C)."""
    q = _queries(attention, tokens)
    logits = cells.dot(_moved(q, attention.k_proj)).reshape(q.shape[0], q.shape[1], -1) + q @ pe.flatten(2)
    mixed = cells.mix(logits.softmax(dim=-1).flatten(0, 1)).reshape(q.shape[0], q.shape[1], -1)  # (H, T, C)
    values = attention.v_proj.weight.reshape(q.shape[0], q.shape[2], -1).transpose(1, 2)
    return attention.out_proj(attention.merge_heads((mixed @ values).unsqueeze(0)) + attention.v_proj.bias)


def _as_product(conv: nn.ConvTranspose2d) -> Tensor:
    """A kernel-2 stride-2 transposed convolution as a linear layer's weight (4·out, in), the four in (dy, dx) order."""
    return conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.weight.shape[0])


def _centred(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Its weight (in, 4·out) and bias (4·out,), less the mean over the out channels, which a layer norm takes away."""
    assert conv.bias is not None
    weight = _as_product(conv).reshape(4, -1, conv.weight.shape[0])
    weight = (weight - weight.mean(dim=1, keepdim=True)).flatten(0, 1)
    return weight.t(), (conv.bias - conv.bias.mean()).repeat(4)
