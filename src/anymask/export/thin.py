"""The mask decoder for one prompt at a time in a browser: the model's own layers, their products in another order.

A page answers one prompt on a processor without wide vectors, where passes over all cells and the upscaling cost most.
What saves two thirds of the official graph's work (`tests/test_export_browser.py` holds the masks to the model's):

- Projections move from the cells to the few tokens, as in `model.transformer`; what the first layer needs of the image,
  and of the positional code, is computed once (`Prepare`, `Positions`).
- A layer norm of the cells is a scale and a shift of each. Both commute with products over the channels and go to the
  other side of them, so normalised cells are never written but for the residual, where they ride on the product.
- What comes on top of the image's cells is a mix of few values, so the first upscaling of the image is computed once,
  and that of the values for each prompt; with a mask the cells are a prompt's own, and are upscaled themselves.
- GELU is its tanh form, half the time of the error function.
- Only cells that show the photo are upscaled, and only the masks that are asked for are made.

Shapes: L = h·w cells, C width, H heads, D head width, T tokens, M masks that are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.layers import LayerNorm2d
from anymask.model.sam import Sam
from anymask.model.smooth import smooth_logits
from anymask.model.transformer import Attention, TwoWayAttentionBlock

PREPARED = ("cells", "token_keys", "token_values", "queries", "raised")


def position_names(sam: Sam) -> list[str]:
    """Names of the outputs of `Positions`."""
    later = range(1, sam.mask_decoder.transformer.depth)
    return ["pe", "last_pe", *(f"{side}_pe{i}" for i in later for side in ("key", "query"))]


class Positions(nn.Module):
    """rows (h,) and columns (w,), numbers from 0, to the positional code and the layers' projections of it."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        h, w = rows.shape[0], columns.shape[0]
        y = ((rows + 0.5) / h).unsqueeze(1).expand(h, w)
        x = ((columns + 0.5) / w).unsqueeze(0).expand(h, w)
        pe = self.sam.prompt_encoder.pe_layer.encode(torch.stack([x, y], dim=-1))
        last = self.sam.mask_decoder.transformer.final_attn_token_to_image
        found = [pe, _key_pe(last, pe)]
        for layer in _layers(self.sam)[1:]:
            to_token = layer.cross_attn_image_to_token
            found += [_key_pe(layer.cross_attn_token_to_image, pe), _heads(to_token.q_proj(pe), to_token)]
        return tuple(found)


class Prepare(nn.Module):
    """image_embeddings (1, C, h, w) and pe (h, w, C) to the tensors of `PREPARED`; once per image."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image_embeddings: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
        sam = self.sam
        cells = image_embeddings[0].permute(1, 2, 0) + sam.prompt_encoder.no_mask_embed.weight
        gain = torch.stack([layer.norm4.weight for layer in _layers(sam)[:-1]] or [cells.new_ones(cells.shape[-1])])
        raised = (cells * gain.prod(dim=0)) @ _first_upscaling(sam)[0]
        return *_prepared(sam, cells, pe), raised


class ThinDecode(nn.Module):
    """Masks (M, 4·rows, 4·columns) of the shown cells and predicted IoU (M,) for one prompt of N point slots.

    rows, columns: as many as are shown, their values are not read. wanted (M,): which of the four masks.
    mask_input (1, 1, 4h, 4w): logits; instead of it None, which is another graph.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

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
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        pe, last_pe, *layer_pe = positions
        cells, token_keys, token_values, queries, raised = image
        if mask_input is not None:
            dense = encoder.embed_masks(mask_input)[0].permute(1, 2, 0)
            own = cells - encoder.no_mask_embed.weight + dense
            cells, token_keys, token_values, queries = _prepared(self.sam, own, pe)
        (h, w), r, c = cells.shape[:2], rows.shape[0], columns.shape[0]
        torch._check(r <= h)
        torch._check(c <= w)

        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).unsqueeze(0)
        token_pe = torch.cat([output_tokens, encoder.embed_tokens(point_coords, point_labels)], dim=1)
        first, *later = _layers(self.sam)
        to_image, to_token = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        tokens = first.update_tokens(token_pe, token_pe)
        weights = (_queries(to_image, tokens + token_pe) @ token_keys.flatten(2)).softmax(dim=-1)  # (H, T, L)
        attended = (weights @ token_values.flatten(1, 2)).unsqueeze(0)  # (1, H, T, D)
        tokens = first.finish_tokens(tokens, to_image.out_proj(to_image.merge_heads(attended)))
        weights = (_keys(to_token, tokens + token_pe) @ queries.flatten(2)).softmax(dim=1).flatten(0, 1)  # (H·T, L)
        seen = Normed.first(cells.flatten(0, 1), weights, _values(to_token, tokens), first.norm4)

        for i, layer in enumerate(later):
            key_pe, query_pe = layer_pe[2 * i : 2 * i + 2]
            to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            tokens = layer.update_tokens(tokens, token_pe)
            tokens = layer.finish_tokens(tokens, _on_cells(to_image, tokens + token_pe, seen, key_pe))
            keys = _keys(to_token, tokens + token_pe) * to_token.scale  # (H, T, D)
            logits = seen.dot(_moved(keys, to_token.q_proj)).reshape(*keys.shape[:2], -1) + keys @ query_pe.flatten(2)
            seen = seen.next(logits.softmax(dim=1).flatten(0, 1), _values(to_token, tokens), layer.norm4)

        chosen = torch.cat([torch.zeros_like(wanted[:1]), wanted + 1])  # the IoU token and the masks' own
        tokens, token_pe = tokens.index_select(1, chosen), token_pe.index_select(1, chosen)
        tokens = tokens + _on_cells(decoder.transformer.final_attn_token_to_image, tokens + token_pe, seen, last_pe)
        tokens = decoder.transformer.norm_final_attn(tokens)
        heads = torch.stack([mlp(tokens[0, 1:]) for mlp in decoder.output_hypernetworks_mlps])  # (4, M, C/8)
        hyper = heads.gather(0, wanted.reshape(1, -1, 1).expand(1, -1, heads.shape[2]))[0]
        iou = decoder.iou_prediction_head(tokens[:, 0])[0].index_select(0, wanted)
        weight, bias = _first_upscaling(self.sam)
        shown = seen.crop(h, w, r, c)
        if mask_input is None:
            x = shown.raised(_crop(raised.flatten(0, 1), h, w, r, c), weight)
        else:
            x = shown.through(weight)
        masks = _upscaled(self.sam, x + bias, hyper, r, c)
        return masks, decoder.rated(masks, iou)


@dataclass(frozen=True)
class Normed:
    """Cells after a layer norm: `x` (L, C) before it, mean and 1 / deviation of each (L, 1), and the norm.

    What x is made of: the image's cells, times `scale` (L, 1) and the weights of earlier norms, and a mix with `rows`
    (R, L) of `values` (R, C).
    """

    x: Tensor
    mean: Tensor
    rate: Tensor
    norm: nn.LayerNorm
    scale: Tensor
    rows: Tensor
    values: Tensor

    @classmethod
    def first(cls, cells: Tensor, weights: Tensor, values: Tensor, norm: nn.LayerNorm) -> Normed:
        """The image's cells (L, C) and weights (N, L)ᵀ · values (N, C), normalised."""
        x = torch.addmm(cells, weights.t(), values)
        return cls(x, *_measured(x, norm), norm, torch.ones_like(x[:, :1]), weights, values)

    def next(self, weights: Tensor, values: Tensor, norm: nn.LayerNorm) -> Normed:
        """These cells and weights (N, L)ᵀ · values (N, C), through the next norm."""
        shift = -(self.mean * self.rate).t()
        weights = torch.cat([weights, shift, torch.ones_like(shift)])
        values = torch.cat([values, self.norm.weight[None], self.norm.bias[None]])
        x = torch.addmm(self.x * self.rate * self.norm.weight, weights.t(), values)
        rows = torch.cat([self.rows * self.rate.t(), weights])
        values = torch.cat([self.values * self.norm.weight, values])
        return Normed(x, *_measured(x, norm), norm, self.scale * self.rate, rows, values)

    def dot(self, q: Tensor) -> Tensor:
        """q (N, C) times the cells: (N, L)."""
        gained = q * self.norm.weight
        gained = gained - gained.mean(dim=1, keepdim=True)  # takes the mean of each cell away
        return (gained @ self.x.t()) * self.rate.t() + (q @ self.norm.bias).unsqueeze(1)

    def mix(self, weights: Tensor) -> Tensor:
        """Sums of the cells with weights (N, L) that add up to one: (N, C)."""
        mixed = (weights * self.rate.t()) @ self.x
        return (mixed - mixed.mean(dim=1, keepdim=True)) * self.norm.weight + self.norm.bias

    def crop(self, h: int, w: int, r: int, c: int) -> Normed:
        """The first r of h rows and c of w columns."""
        x, mean, rate, scale, rows = (
            _crop(t, h, w, r, c) for t in (self.x, self.mean, self.rate, self.scale, self.rows.t())
        )
        return Normed(x, mean, rate, self.norm, scale, rows.t(), self.values)

    def through(self, weight: Tensor) -> Tensor:
        """The cells times a weight (C, N) that `_first_upscaling` made: (L, N)."""
        return (self.x @ weight) * self.rate

    def raised(self, image: Tensor, weight: Tensor) -> Tensor:
        """The same, with the product of the image's cells (L, N) known."""
        return torch.addmm(image * self.scale, self.rows.t(), self.values @ weight) * self.rate


def _measured(x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation (L, 1) of cells (L, C)."""
    mean = x.mean(dim=1, keepdim=True)
    power = torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1]
    return mean, (power - mean.square() + norm.eps).rsqrt()


def _crop(x: Tensor, h: int, w: int, r: int, c: int) -> Tensor:
    """The first r of h rows and c of w columns of (h·w, N)."""
    return x.reshape(h, w, -1).narrow(0, 0, r).narrow(1, 0, c).flatten(0, 1)


def _first_upscaling(sam: Sam) -> tuple[Tensor, Tensor]:
    """The first transposed convolution of cells before their last norm: weight (C, C), bias (C,).

    The weight takes away the mean of each cell, which that norm does, and the mean of each place, which the norm that
    follows does; the cells' own scale is left to the caller.
    """
    up1, last = sam.mask_decoder.output_upscaling[0], _layers(sam)[-1].norm4
    assert isinstance(up1, nn.ConvTranspose2d) and up1.bias is not None
    weight = _as_product(up1).reshape(4, -1, up1.in_channels)
    weight = (weight - weight.mean(dim=1, keepdim=True)).flatten(0, 1).t()
    bias = (up1.bias - up1.bias.mean()).repeat(4) + last.bias @ weight
    gained = last.weight[:, None] * weight
    return gained - gained.mean(dim=0), bias


def _upscaled(sam: Sam, x: Tensor, hyper: Tensor, r: int, c: int) -> Tensor:
    """Logits (M, 4r, 4c) of r·c cells after the first transposed convolution (r·c, C), for hyper (M, C/8)."""
    up1, layer_norm, _, up2, _ = sam.mask_decoder.output_upscaling
    assert isinstance(up1, nn.ConvTranspose2d) and isinstance(up2, nn.ConvTranspose2d) and up2.bias is not None
    norm = cast(LayerNorm2d, layer_norm)
    x = x.reshape(-1, up1.out_channels)  # (r·c·4, C/4), each of mean 0
    power = torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1]
    x = F.gelu(x * (power + norm.eps).rsqrt() * norm.weight + norm.bias, approximate="tanh")
    x = F.gelu(x @ _as_product(up2).t() + up2.bias.repeat(4), approximate="tanh")
    x = x.reshape(-1, up2.out_channels) @ hyper.t()  # (r·c·16, M)
    x = x.reshape(r, c, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5).reshape(-1, 4 * r, 4 * c)
    return smooth_logits(x.unsqueeze(0))[0] if sam.mask_decoder.smooth else x


def _prepared(sam: Sam, cells: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
    """`PREPARED` but for the last, of cells (h, w, C) with the dense prompt in them."""
    first = _layers(sam)[0]
    to_image, to_token = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    values = _heads(to_image.v_proj(cells), to_image).permute(0, 2, 3, 1)  # (H, h, w, D)
    queries = _heads(to_token.q_proj(cells + pe) * to_token.scale, to_token)
    return cells, _heads(to_image.k_proj(cells + pe), to_image), values, queries


def _on_cells(attention: Attention, tokens: Tensor, cells: Normed, pe: Tensor) -> Tensor:
    """Tokens (1, T, C) attend to normalised cells, `pe` (H, D, h, w) the projected positional code: (1, T, C)."""
    q = _queries(attention, tokens)
    logits = cells.dot(_moved(q, attention.k_proj)).reshape(*q.shape[:2], -1) + q @ pe.flatten(2)
    mixed = cells.mix(logits.softmax(dim=-1).flatten(0, 1)).reshape(*q.shape[:2], -1)  # (H, T, C)
    values = mixed @ attention.head_weight(attention.v_proj).transpose(1, 2)
    return attention.out_proj(attention.merge_heads(values.unsqueeze(0)) + attention.v_proj.bias)


def _layers(sam: Sam) -> list[TwoWayAttentionBlock]:
    return [cast(TwoWayAttentionBlock, layer) for layer in sam.mask_decoder.transformer.layers]


def _key_pe(attention: Attention, pe: Tensor) -> Tensor:
    """Without the bias, which adds the same to all logits of a query."""
    return _heads(F.linear(pe, attention.k_proj.weight), attention)


def _heads(x: Tensor, attention: Attention) -> Tensor:
    """(h, w, H·D) to (H, D, h, w)."""
    h, w, c = x.shape
    return x.permute(2, 0, 1).reshape(attention.num_heads, c // attention.num_heads, h, w)


def _queries(attention: Attention, tokens: Tensor) -> Tensor:
    """Scaled queries (H, T, D) of tokens (1, T, C)."""
    return attention.split_heads(attention.q_proj(tokens) * attention.scale)[0]


def _keys(attention: Attention, tokens: Tensor) -> Tensor:
    """Keys (H, T, D) of tokens (1, T, C)."""
    return attention.split_heads(attention.k_proj(tokens))[0]


def _moved(x: Tensor, linear: nn.Linear) -> Tensor:
    """x (H, T, D) through the transpose of an input projection: (H·T, C)."""
    return (x @ linear.weight.reshape(x.shape[0], x.shape[2], -1)).flatten(0, 1)


def _values(attention: Attention, tokens: Tensor) -> Tensor:
    """What a cell takes over from a token through a head, output projection and its bias included: (H·T, C)."""
    v = attention.split_heads(attention.v_proj(tokens))[0]  # (H, T, D)
    out = attention.out_proj.weight.t().reshape(v.shape[0], v.shape[2], -1)
    return (v @ out + attention.out_proj.bias / attention.num_heads).flatten(0, 1)


def _as_product(conv: nn.ConvTranspose2d) -> Tensor:
    """A kernel-2 stride-2 transposed convolution as a linear layer's weight (4·out, in), the four in (dy, dx) order."""
    return conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.in_channels)
