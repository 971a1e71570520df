"""Masks and predicted IoU from an image embedding and prompt embeddings (PAPER §2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model import rating
from anymask.model.cell_gradients import CellsWithGradients
from anymask.model.cells import CellBatch, CellList, Cells
from anymask.model.layers import MLP, LayerNorm2d, in_one_order
from anymask.model.low_rank import LowRankCells, LowRankImage, ThroughLinear, picked, run_low_rank
from anymask.model.smooth import smooth_logits
from anymask.model.transformer import ImageTokens, TwoWayTransformer
from anymask.model.upscaling_gradients import upscaled_masks

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
        rates_stability: bool = False,
    ) -> None:
        """smooth: low-pass the logits (`model.smooth`). rates_stability: predicted IoU regards the masks as well
        (`rated`). No model of the paper does either, `lite` does both.
        """
        super().__init__()
        self.smooth, self.rates_stability = smooth, rates_stability
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

    def rated(self, masks: Tensor, iou: Tensor) -> Tensor:
        """What is given to users as predicted IoU (P, M) of masks (P, M, 4h, 4w); `iou` is what the head says."""
        return rating.rated(masks, iou) if self.rates_stability else iou

    def low_rank(self, image: ImageTokens) -> LowRankImage:
        """The same image side for many prompts at a time, without gradients and on a CPU (`model.low_rank`)."""
        return LowRankImage.of(self.transformer, image)

    def decode(
        self,
        image: ImageTokens | LowRankImage,
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
        image: ImageTokens | LowRankImage,
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
        cells: Cells | LowRankCells
        if isinstance(image, ImageTokens):
            tokens, cells = self.transformer(image, tokens, chosen)
        else:
            tokens, cells = run_low_rank(self.transformer, image, tokens, chosen)
        heads = list(self.output_hypernetworks_mlps)[chosen]
        hyper = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(heads)], dim=1)  # (P, M, C/8)
        iou = self.iou_prediction_head(tokens[:, 0])[:, chosen]
        if isinstance(cells, CellsWithGradients):
            masks = self._masks_with_gradients(cells, hyper, size_hw)
            return smooth_logits(masks) if self.smooth else masks, iou
        if not isinstance(cells, CellBatch):
            wanted = [True] * len(iou) if min_iou is None else (iou > min_iou).any(dim=1).tolist()
            return self._masks_in_turn(cells, size_hw, hyper, wanted, inside_hw or size_hw), iou
        if min_iou is None:
            return self._masks(self._products(cells.keys, hyper), size_hw), iou
        promising = (iou > min_iou).any(dim=1)
        some = self._masks(self._products(cells.keys[promising], hyper[promising]), size_hw)
        masks = some.new_zeros(len(iou), *some.shape[1:])
        masks[promising] = some
        return masks, iou

    def _products(self, cells: Tensor, hyper: Tensor) -> Tensor:
        """Upscale cells (P, L, C) four times and take the product with hyper (P, M, C/8): (P, M, L·4·4).

        Both transposed convolutions have kernel = stride, so each is one matrix product per cell; channels stay
        last, and only the finished logits are moved into image order.
        """
        return (self._upscale(cells) @ hyper.transpose(1, 2)).transpose(1, 2)

    def _masks_with_gradients(self, cells: CellsWithGradients, hyper: Tensor, size_hw: tuple[int, int]) -> Tensor:
        first, second = (_as_linear(conv) for conv in self._convs)
        norm = (self._norm.weight, self._norm.bias, self._norm.eps)
        return upscaled_masks(cells.keys, hyper, first, norm, second, size_hw)

    def _masks(self, products: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Logits (P, M, L·4·4) into image order, (P, M, 4h, 4w)."""
        (h, w), (p, m, _) = size_hw, products.shape
        masks = products.reshape(p, m, h, w, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        masks = masks.reshape(p, m, 4 * h, 4 * w)
        return smooth_logits(masks) if self.smooth else masks

    def _masks_in_turn(
        self,
        cells: CellList | LowRankCells,
        size_hw: tuple[int, int],
        hyper: Tensor,
        wanted: list[bool],
        inside_hw: tuple[int, int],
    ) -> Tensor:
        """As `_masks`, in float32 and one prompt after the other: only `wanted` ones, only rows and columns inside."""
        (h, w), (rows, columns), (p, m, _) = size_hw, inside_hw, hyper.shape
        out = torch.full((p, m, 4 * h, 4 * w), 0.0 if inside_hw == size_hw else OUTSIDE)
        inside: slice | Tensor = slice(0, rows * w)  # of the cells
        if columns < w:
            inside = torch.arange(h * w).view(h, w)[:rows, :columns].flatten()
        weight, bias = self._centred_first_product()
        through = None if isinstance(cells, CellList) else ThroughLinear(cells, weight, bias)
        for i, masks in enumerate(out[:, :, : 4 * rows, : 4 * columns]):
            if not wanted[i]:
                masks.zero_()
                continue
            if isinstance(cells, CellList):
                x = F.linear(picked(cells.keys[i], inside), weight, bias)
            else:
                assert through is not None
                x = through.of(i, inside)
            logits = torch.mm(hyper[i], self._finish(_scaled(self._split(x), self._norm)).t()).float()
            ordered, picture = in_one_order(logits, masks)
            picture.copy_(ordered)
            if self.smooth:
                masks.copy_(smooth_logits(masks.unsqueeze(0))[0])
        return out

    def _upscale(self, cells: Tensor) -> Tensor:
        """Cells (…, N, C) to (…, N·4·4, C/8)."""
        x, norm = self._split(F.linear(cells, *_as_linear(self._convs[0]))), self._norm
        return self._finish(F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps))

    def _centred_first_product(self) -> tuple[Tensor, Tensor]:
        """The first transposed convolution, weight (C, C) and bias (C,), less the mean that the norm takes away."""
        weight, bias = _as_linear(self._convs[0])
        weight, bias = weight.view(4, -1, weight.shape[1]), bias.view(4, -1)
        weight, bias = weight - weight.mean(dim=1, keepdim=True), bias - bias.mean(dim=1, keepdim=True)
        return weight.flatten(0, 1), bias.flatten()

    def _split(self, x: Tensor) -> Tensor:
        """A cell's four places after the first product, (…, N, C) to (…, N·4, C/4), in (dy, dx) order."""
        return x.reshape(*x.shape[:-2], -1, self._convs[0].out_channels)

    def _finish(self, x: Tensor) -> Tensor:
        """From the norm on: (…, N·4, C/4) to (…, N·4·4, C/8)."""
        x = F.gelu(F.linear(F.gelu(x), *_as_linear(self._convs[1])))
        return x.reshape(*x.shape[:-2], -1, self._convs[1].out_channels)

    @property
    def _convs(self) -> tuple[nn.ConvTranspose2d, nn.ConvTranspose2d]:
        first, second = self.output_upscaling[0], self.output_upscaling[3]
        assert isinstance(first, nn.ConvTranspose2d) and isinstance(second, nn.ConvTranspose2d)
        return first, second

    @property
    def _norm(self) -> LayerNorm2d:
        norm = self.output_upscaling[1]
        assert isinstance(norm, LayerNorm2d)
        return norm


def _scaled(x: Tensor, norm: LayerNorm2d) -> Tensor:
    """The norm of rows (N, C) whose mean is zero, half the time of a layer norm; overwrites x."""
    power = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).square_()
    rate = power.div_(x.shape[1]).add_(norm.eps).rsqrt_().to(x.dtype)
    return torch.addcmul(norm.bias, x.mul_(rate), norm.weight)


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h·w, C), contiguous: every later pass runs along the channels."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _as_linear(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A kernel-2 stride-2 transposed convolution on cells: weight (4·out, in) and bias (4·out,), in (dy, dx) order."""
    assert conv.bias is not None
    return conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.in_channels), conv.bias.repeat(4)
