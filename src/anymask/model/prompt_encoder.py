"""Points, boxes and masks as embeddings (PAPER §2.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.cells import MaskPart
from anymask.model.layers import LayerNorm2d, runs_eagerly_on_cpu

# Label ids of a sparse prompt token; the same numbers as in the exported decoder.
PADDING, BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of a position in the unit square; the Gaussian matrix is part of the checkpoint."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 128, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer(
            "positional_encoding_gaussian_matrix", scale * torch.randn(2, num_pos_feats)
        )

    def encode(self, unit_xy: Tensor) -> Tensor:
        """(..., 2) in [0, 1] to (..., 2·num_pos_feats); always in float32, bf16 would blur positions."""
        matrix = self.positional_encoding_gaussian_matrix.float()
        angle = 2 * math.pi * ((2 * unit_xy.float() - 1) @ matrix)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def forward(self, size_hw: tuple[int, int]) -> Tensor:
        """Code of every cell centre of an h×w grid, (C, h, w)."""
        h, w = size_hw
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # (h, w, 2) as x, y
        return self.encode(grid).permute(2, 0, 1)

    def forward_with_coords(self, coords_xy: Tensor, image_hw: tuple[int, int]) -> Tensor:
        """Code of points (..., 2) given in pixels of an image of `image_hw`."""
        height, width = image_hw
        return self.encode(coords_xy.float() / coords_xy.new_tensor([width, height]).float())


class PromptEncoder(nn.Module):
    """Sparse prompts to (P, N, C) tokens, dense prompts to (P, C, h, w).

    embed_dim: C. image_embedding_size: (h, w) cells. input_image_size: (S, S), the frame of the coordinates.
    mask_in_chans: width of the mask stack's second convolution.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int = 16,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.num_point_embeddings = 4
        self.point_embeddings: Iterable[nn.Embedding] = nn.ModuleList(  # type: ignore[assignment]
            nn.Embedding(1, embed_dim) for _ in range(4)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        self.text_embed: nn.Linear | None = None  # no part of the official models

    def add_text(self, width: int) -> None:
        """Take text as a prompt: vectors of `width` numbers become tokens by one linear layer (PAPER §10.2)."""
        self.text_embed = nn.Linear(width, self.embed_dim)

    def embed_text(self, vectors: Tensor) -> Tensor:
        """Vectors (P, D) of length 1 to tokens (P, 1, C)."""
        assert self.text_embed is not None
        return self.text_embed(vectors).unsqueeze(1)

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """Size of a mask prompt: four times the embedding, 256×256 for the official models."""
        h, w = self.image_embedding_size
        return 4 * h, 4 * w

    def get_dense_pe(self, size_hw: tuple[int, int] | None = None) -> Tensor:
        """Positional code of the embedding grid, (1, C, h, w); of another grid on the same image where one is given."""
        return self.pe_layer(size_hw or self.image_embedding_size).unsqueeze(0)

    def embed_tokens(self, coords_xy: Tensor, labels: Tensor) -> Tensor:
        """Tokens (P, N, C) of coordinates (P, N, 2) in the model frame and label ids (P, N), -1 … 3.

        One rule for all labels, without a branch on the data, so that it exports as it is: the pixel centre's
        code (zero for padding) plus the type embedding of the label.
        """
        code = self.pe_layer.forward_with_coords(coords_xy + 0.5, self.input_image_size)
        code = code * (labels != PADDING).unsqueeze(-1)
        types = torch.cat(
            [self.not_a_point_embed.weight] + [e.weight for e in self.point_embeddings]
        )  # (5, C); row = label + 1
        return code.to(types.dtype) + types[labels.long() + 1]

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Mask logits (P, 1, 4h, 4w) to a dense embedding (P, C, h, w)."""
        weight, bias = self._last_of_masks
        x = F.linear(self._mask_features(masks).transpose(1, 2), weight, bias)
        h, w = masks.shape[-2] // 4, masks.shape[-1] // 4
        return x.view(x.shape[0], h, w, -1).permute(0, 3, 1, 2)  # channels last, as the decoder wants them

    def mask_part(self, masks: Tensor, dtype: torch.dtype) -> MaskPart:
        """The same in two thin factors, as what it adds to `embed_no_mask`."""
        weight, bias = self._last_of_masks
        features = self._mask_features(masks)
        w = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        return MaskPart(w.to(dtype), torch.cat([weight.t(), bias - self.no_mask_embed.weight]).to(dtype))

    @property
    def _last_of_masks(self) -> tuple[Tensor, Tensor]:
        """The last convolution, whose kernel is one pixel: weight (C, 16) and bias (C,)."""
        last = self.mask_downscaling[6]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        return last.weight.flatten(1), last.bias

    def _mask_features(self, masks: Tensor) -> Tensor:
        """What the last convolution gets, (P, 16, h·w); in float32, for it is little work and few channels."""
        first, second = self.mask_downscaling[:3], self.mask_downscaling[3:6]
        with torch.autocast(masks.device.type, enabled=False):
            x = masks.to(self.no_mask_embed.weight.dtype)
            parts = torch.split(x, 1) if runs_eagerly_on_cpu(x) else [x]  # one stays in the processor's cache
            return torch.cat([_downscaled(_downscaled(part, first), second).flatten(2) for part in parts])

    def embed_no_mask(self) -> Tensor:
        """The dense embedding that stands for 'no mask given', (1, C, 1, 1); broadcasts over cells."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Sparse (P, N, C) and dense (P, C, h, w) embeddings.

        points: coordinates (P, N, 2) in the model frame and labels (P, N) in {-1, 0, 1, 2, 3}; one padding token
        is appended when no box is given. boxes: (P, 4) xyxy in the model frame. masks: (P, 1, 4h, 4w) logits.
        """
        sparse = self.sparse(points, boxes, masks)
        if masks is not None:
            return sparse, self.embed_masks(masks)
        h, w = self.image_embedding_size
        return sparse, self.embed_no_mask().expand(sparse.shape[0], -1, h, w)

    def sparse(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None) -> Tensor:
        """The sparse part of `forward`, (P, N, C): N = 0 where there are only masks or nothing."""
        sparse = self.embed_sparse(points, boxes)
        if sparse is None:
            return self.no_mask_embed.weight.new_empty((1 if masks is None else masks.shape[0], 0, self.embed_dim))
        return sparse

    def embed_sparse(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None
    ) -> Tensor | None:
        """Point tokens, then a padding token or two box-corner tokens: (P, N, C); None without either."""
        coords: list[Tensor] = []
        labels: list[Tensor] = []
        if points is not None:
            coords.append(points[0].float())
            labels.append(points[1].long())
            if boxes is None:
                coords.append(coords[0].new_zeros((coords[0].shape[0], 1, 2)))
                labels.append(labels[0].new_full((labels[0].shape[0], 1), PADDING))
        if boxes is not None:
            corners = boxes.float().reshape(-1, 2, 2)
            ids = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=corners.device)
            coords.append(corners)
            labels.append(ids.expand(corners.shape[0], 2))
        if not coords:
            return None
        return self.embed_tokens(torch.cat(coords, dim=1), torch.cat(labels, dim=1))


def _downscaled(x: Tensor, stage: nn.Sequential) -> Tensor:
    """Convolution (kernel and stride 2), norm and activation of (P, in, H, W): (P, out, H/2, W/2), channels first.

    The mean that the norm takes away is taken from the convolution's weights.
    """
    conv, norm, activation = stage
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, LayerNorm2d) and conv.bias is not None
    p, c, h, w = x.shape
    patches = x.reshape(p, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(p, 4 * c, -1)
    weight, bias = conv.weight.flatten(1), conv.bias
    weight, bias = weight - weight.mean(dim=0), bias - bias.mean()
    x = torch.baddbmm(bias.view(1, -1, 1), weight.expand(p, -1, -1), patches)
    x = x * (x.square().mean(dim=1, keepdim=True) + norm.eps).rsqrt()
    x = torch.addcmul(norm.bias.view(-1, 1), x, norm.weight.view(-1, 1))
    return cast(Tensor, activation(x)).view(p, -1, h // 2, w // 2)
