"""The whole model: preprocess, encode, decode prompts, restore masks to the photo's size."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.low_rank import LowRankImage
from anymask.model.mask_decoder import MaskDecoder
from anymask.model.prompt_encoder import PromptEncoder
from anymask.model.rating import least_head
from anymask.model.transformer import ImageTokens
from anymask.model.upscale import upscale_logits


class ImageEncoder(Protocol):
    """What any image encoder must offer: (B, 3, S, S) to (B, C, S/stride, S/stride)."""

    img_size: int

    @property
    def stride(self) -> int: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder with the official names.

    image_encoder: any module with `img_size` and `stride` that maps (B, 3, S, S) to (B, C, S/stride, S/stride).
    pixel_mean, pixel_std: RGB on the 0..255 scale; not part of the state dict.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    mask_threshold: float = 0.0
    image_format: str = "RGB"

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.image_encoder: Any = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the image encoder and the mask decoder."""
        return self.mask_decoder.iou_token.weight.dtype

    def set_precision(self, dtype: torch.dtype) -> Sam:
        """Run encoder and decoder in `dtype`; positions and prompts stay in float32."""
        self.image_encoder.to(dtype)
        self.mask_decoder.to(dtype)
        return self

    def at_side(self, side: int) -> Sam:
        """The same weights, shared, for images scaled into another square; for encoders without position tables."""
        twin, prompts = copy.copy(self), copy.copy(self.prompt_encoder)
        encoder = copy.copy(self.image_encoder)
        encoder.img_size = side
        cells = side // int(encoder.stride)
        prompts.image_embedding_size, prompts.input_image_size = (cells, cells), (side, side)
        twin._modules = {**self._modules, "image_encoder": encoder, "prompt_encoder": prompts}
        return twin

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise (..., 3, H, W) pixels on the 0..255 scale and pad right and bottom with zeros to S×S."""
        x = (x - self.pixel_mean) / self.pixel_std
        side = self.image_encoder.img_size
        return F.pad(x, (0, side - x.shape[-1], 0, side - x.shape[-2]))

    def encode(self, x: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) to embeddings (B, C, h, w)."""
        return self.image_encoder(x.to(self.dtype))

    def prepare(self, embedding: Tensor) -> ImageTokens:
        """The image side (1, C, h, w) for prompts without a mask; reusable for every such prompt."""
        dense = self.prompt_encoder.embed_no_mask().to(embedding.dtype)
        pe = self.prompt_encoder.get_dense_pe((embedding.shape[-2], embedding.shape[-1]))
        return self.mask_decoder.prepare(embedding, pe, dense)

    def decode(
        self,
        embedding: Tensor,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask_output: bool,
        prepared: ImageTokens | LowRankImage | None = None,
        min_iou: float | None = None,
        inside_hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (P, M, 4h, 4w) and predicted IoU (P, M), both float32.

        embedding: (1, C, h, w). points: (P, N, 2) in the model frame and labels (P, N). boxes: (P, 4).
        masks: (P, 1, 4h, 4w) logits. prepared: `prepare(embedding)`, or for prompts without masks its low-rank form.
        min_iou: logits of prompts with no predicted IoU above it are zero, for half of the work.
        inside_hw: logits beyond these rows and columns of cells are not wanted.
        """
        sparse, size_hw = self.prompt_encoder.sparse(points, boxes, masks), (embedding.shape[-2], embedding.shape[-1])
        if masks is not None:
            image = prepared if isinstance(prepared, ImageTokens) else self.prepare(embedding)
            part = self.prompt_encoder.mask_part(masks, embedding.dtype)
            prepared = replace(image, masks=part.each_of(sparse.shape[0]))
        elif prepared is None:
            prepared = self.prepare(embedding)
        decoder = self.mask_decoder
        if min_iou is not None and decoder.rates_stability:
            min_iou = least_head(min_iou)
        low_res, iou = decoder.decode(prepared, size_hw, sparse, multimask_output, min_iou, inside_hw)
        low_res = low_res.float()
        return low_res, decoder.rated(low_res, iou.float())

    @torch.no_grad()
    def forward(
        self, batched_input: list[dict[str, Any]], multimask_output: bool
    ) -> list[dict[str, Tensor]]:
        """Masks for a list of images with prompts, as in the official model.

        Each input: `image` (3, H, W) already scaled to the model side, `original_size` (H, W), and any of
        `point_coords` (P, N, 2) with `point_labels` (P, N), `boxes` (P, 4), `mask_inputs` (P, 1, 4h, 4w), in the
        model frame. Each output: `masks` (P, M, H, W) bool, `iou_predictions` (P, M), `low_res_logits`.
        """
        images = torch.stack([self.preprocess(record["image"]) for record in batched_input])
        outputs = []
        for record, embedding in zip(batched_input, self.encode(images), strict=True):
            points = None
            if "point_coords" in record:
                points = (record["point_coords"], record["point_labels"])
            low_res, iou = self.decode(
                embedding.unsqueeze(0),
                points,
                record.get("boxes"),
                record.get("mask_inputs"),
                multimask_output,
            )
            masks = self.postprocess_masks(
                low_res, tuple(record["image"].shape[-2:]), tuple(record["original_size"])
            )
            outputs.append(
                {
                    "masks": masks > self.mask_threshold,
                    "iou_predictions": iou,
                    "low_res_logits": low_res,
                }
            )
        return outputs

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]
    ) -> Tensor:
        """Low-resolution logits (P, M, 4h, 4w) to logits (P, M, H, W) of the photo.

        input_size: the photo's size inside the model's square (H, W). original_size: the photo's size (H, W).
        """
        height, width = original_size
        in_height, in_width = input_size
        side = int(self.image_encoder.img_size)
        return upscale_logits(masks, side, (in_height, in_width), (height, width))
