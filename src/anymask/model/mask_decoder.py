"""Masks and predicted IoU from an image embedding and prompt embeddings (PAPER §2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.cells import CellBatch, CellList
from anymask.model.layers import MLP, LayerNorm2d
from anymask.model.smooth import smooth_logits
from anymask.model.transformer import ImageTokens, TwoWayTransformer

OUTSIDE = -100.0  # logit of what was not asked for: surely not mask


class MaskDecoder(nn.Module):
    """Four mask tokens and one IoU token go through the two-way transformer.

    Mask token 0 answers several prompts (one mask), tokens 1-3 a single, ambiguous one (three masks).
    """

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        smooth: bool = False,
    ) -> None:
        """smooth: low-pass the logits (`model.smooth`); no model of the paper does, `lite` does."""
        super().__init__()
        self.smooth = smooth
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3)
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth
        )

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution mask logits (P, M, 4h, 4w) and predicted IoU (P, M); M = 3 or 1.

        image_embeddings: (1, C, h, w) shared by all prompts, or (P, C, h, w). image_pe: (1, C, h, w).
        sparse: (P, N, C). dense: (P, C, h, w), or (1, C, 1, 1) where no mask is given.
        """
        image = self.prepare(image_embeddings, image_pe, dense_prompt_embeddings)
        size_hw = (image_embeddings.shape[-2], image_embeddings.shape[-1])
        return self.decode(image, size_hw, sparse_prompt_embeddings, multimask_output)

    def prepare(self, image_embeddings: Tensor, image_pe: Tensor, dense: Tensor) -> ImageTokens:
        """The image side before the first layer; reusable for all prompts with the same dense embedding."""
        if dense.dim() == 4 and dense.stride(0) == 0:
            dense = dense[:1]  # one embedding, expanded over the prompts
        keys = _channels_last(image_embeddings) + _channels_last(dense).to(image_embeddings.dtype)  # (G, L, C)
        return self.transformer.prepare(keys, _channels_last(image_pe).to(keys.dtype))

    def decode(
        self,
        image: ImageTokens,
        size_hw: tuple[int, int],
        sparse: Tensor,
        multimask_output: bool,
        min_iou: float | None = None,
        inside_hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, from a prepared image side of h×w cells.

        min_iou: prompts with no predicted IoU above it are not upscaled, half of the work; their logits are zero.
        inside_hw: logits of cells beyond these rows and columns are not wanted; they may be `OUTSIDE`.
        """
        chosen = slice(1, self.num_mask_tokens) if multimask_output else slice(0, 1)
        return self.decode_chosen(image, size_hw, sparse, chosen, min_iou, inside_hw)

    def decode_chosen(
        self,
        image: ImageTokens,
        size_hw: tuple[int, int],
        sparse: Tensor,
        chosen: slice,
        min_iou: float | None = None,
        inside_hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks and predicted IoU of the mask tokens in `chosen`; an export takes all four."""
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (5, C)
        tokens = torch.cat(
            [output_tokens.expand(sparse.shape[0], -1, -1), sparse.to(output_tokens.dtype)], dim=1
        )
        tokens, cells = self.transformer(image, tokens, chosen)
        heads = list(self.output_hypernetworks_mlps)[chosen]
        hyper = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(heads)], dim=1)  # (P, M, C/8)
        iou = self.iou_prediction_head(tokens[:, 0])[:, chosen]
        if isinstance(cells, CellList):
            wanted = [True] * len(iou) if min_iou is None else (iou > min_iou).any(dim=1).tolist()
            return self._masks_in_turn(cells, size_hw, hyper, wanted, inside_hw or size_hw), iou
        assert isinstance(cells, CellBatch)
        if min_iou is None:
            return self._masks(cells.keys, size_hw, hyper), iou
        promising = (iou > min_iou).any(dim=1)
        some = self._masks(cells.keys[promising], size_hw, hyper[promising])
        masks = some.new_zeros(len(iou), *some.shape[1:])
        masks[promising] = some
        return masks, iou

    def _masks(self, cells: Tensor, size_hw: tuple[int, int], hyper: Tensor) -> Tensor:
        """Upscale cells (P, L, C) four times and take the product with hyper (P, M, C/8): (P, M, 4h, 4w).

        Both transposed convolutions have kernel = stride, so each is one matrix product per cell; channels stay
        last, and only the finished logits are moved into image order.
        """
        (h, w), (p, m, _) = size_hw, hyper.shape
        masks = (self._upscale(cells) @ hyper.transpose(1, 2)).transpose(1, 2)  # (P, M, L·4·4)
        masks = masks.reshape(p, m, h, w, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        masks = masks.reshape(p, m, 4 * h, 4 * w)
        return smooth_logits(masks) if self.smooth else masks

    def _masks_in_turn(
        self,
        cells: CellList,
        size_hw: tuple[int, int],
        hyper: Tensor,
        wanted: list[bool],
        inside_hw: tuple[int, int],
    ) -> Tensor:
        """As `_masks`, in float32 and one prompt after the other: only `wanted` ones, only rows and columns inside."""
        (h, w), (rows, columns), (p, m, _) = size_hw, inside_hw, hyper.shape
        out = torch.full((p, m, 4 * h, 4 * w), 0.0 if inside_hw == size_hw else OUTSIDE)
        for i, masks in enumerate(out[:, :, : 4 * rows, : 4 * columns]):
            if not wanted[i]:
                masks.zero_()
                continue
            keys = cells.keys[i].view(h, w, -1)[:rows, :columns].reshape(rows * columns, -1)
            logits = torch.mm(hyper[i], self._upscale(keys).t()).float()
            _into_image_order(logits, masks)
            if self.smooth:
                masks.copy_(smooth_logits(masks.unsqueeze(0))[0])
        return out

    def _upscale(self, cells: Tensor) -> Tensor:
        """Cells (…, N, C) to (…, N·4·4, C/8)."""
        up1, norm, _, up2, _ = self.output_upscaling
        assert isinstance(up1, nn.ConvTranspose2d) and isinstance(up2, nn.ConvTranspose2d)
        assert isinstance(norm, LayerNorm2d)
        x = _transposed_conv(cells, up1)  # (…, N·4, C/4)
        x = F.gelu(F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps))
        return F.gelu(_transposed_conv(x, up2))


def _into_image_order(logits: Tensor, out: Tensor) -> None:
    """Logits (M, h·w·2·2·2·2) float32, a cell's (y, x, y, x), into pictures (M, 4h, 4w)."""
    (m, height, width) = out.shape
    h, w = height // 4, width // 4
    pairs = logits.view(torch.int64).view(m, h, w, 2, 2, 2)  # two neighbours in a row move as one: a tenth of the time
    rows = out.view(torch.int64).view(m, h, 2, 2, w, 2)
    for y in range(2):
        for x in range(2):
            rows[:, :, :, y, :, x] = pairs[:, :, :, :, x, y].transpose(2, 3)


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h·w, C), contiguous: every later pass runs along the channels."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _transposed_conv(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """A kernel-2 stride-2 transposed convolution on cells (…, N, in): (…, N·4, out), the four in (dy, dx) order."""
    weight = conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.weight.shape[0])  # (4·out, in)
    assert conv.bias is not None
    y = F.linear(x, weight, conv.bias.repeat(4))
    return y.reshape(*x.shape[:-2], -1, conv.weight.shape[1])
