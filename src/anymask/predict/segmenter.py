"""The torch model as a `Segmenter`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch

from anymask.core.allocator import keep_freed_memory
from anymask.core.geometry import Frame
from anymask.core.images import resize_image
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.model.cells import goes_in_turn
from anymask.model.lite_encoder import LiteEncoder
from anymask.model.low_rank import LowRankImage
from anymask.model.sam import Sam
from anymask.model.threads import in_threads
from anymask.model.transformer import ImageTokens

PROMPTS_AT_ONCE = 16  # decoded together; more would not be faster, only larger (docs/log.md)
FEWEST_AT_ONCE = 4  # in one thread; for fewer a part of its own is not worth it
MANY_PROMPTS = 8  # on one image, from which its low-rank form pays (`model.low_rank`)
CROP_SIDE = 384  # pixels that `lite` sees of a crop: as good as 512 for half of the work (docs/log.md)


T = TypeVar("T")


class TorchSegmenter:
    """Encode photos and decode prompts with a `Sam` module, wherever it lives and in its own precision."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.side = int(sam.image_encoder.img_size)
        self.mask_threshold = sam.mask_threshold
        if sam.device.type == "cpu":
            keep_freed_memory()
        self._prepared: tuple[Any, ImageTokens] | None = None  # of the latest embedding
        self._low_rank: LowRankImage | None = None  # the same for many prompts
        self._preparing = Lock()

    @property
    def low_res_hw(self) -> tuple[int, int]:
        """Size of low-resolution logits and of mask prompts (4h, 4w)."""
        return self.sam.prompt_encoder.mask_input_size

    def for_crops(self) -> TorchSegmenter:
        """The segmenter that looks at crops (`predict.zoom`): the same weights, for `lite` at a smaller side."""
        encoder = self.sam.image_encoder
        return TorchSegmenter(self.sam.at_side(CROP_SIDE)) if isinstance(encoder, LiteEncoder) else self

    @property
    def preset(self) -> str:
        """Preset of automatic masks that suits the model."""
        return "lite" if isinstance(self.sam.image_encoder, LiteEncoder) else "official"

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of the prompt encoder's weights: tells embeddings of different models apart."""
        encoder = self.sam.prompt_encoder
        digest = hashlib.sha256()
        for tensor in (encoder.pe_layer.positional_encoding_gaussian_matrix, encoder.no_mask_embed.weight):
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        digest.update(str(self.side).encode())
        return digest.hexdigest()[:12]

    @torch.no_grad()
    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        """Photos (H, W, 3) uint8 RGB to embeddings in one batch."""
        frames = [Frame.of(image.shape[:2], self.side) for image in images]
        scaled = [resize_image(image, f.input_hw) for image, f in zip(images, frames)]
        tensors = [torch.as_tensor(s, device=self.sam.device).permute(2, 0, 1) for s in scaled]
        return self.encode_scaled(tensors, frames)

    @torch.no_grad()
    def encode_scaled(self, tensors: list[torch.Tensor], frames: list[Frame]) -> list[Embedding]:
        """Photos already scaled to their frames, (3, h, w) on the 0..255 scale, to embeddings."""
        batch = torch.stack([self.sam.preprocess(t) for t in tensors])
        features = self.sam.encode(batch)
        model = self.fingerprint
        return [Embedding(features[i : i + 1], frame, model) for i, frame in enumerate(frames)]

    @torch.no_grad()
    def coarser(self, embedding: Embedding) -> Embedding | None:
        """The embedding with half the cells a side, for `decode`; None where their number is odd."""
        features = self._tensor(embedding.features)
        if features.shape[-2] % 2 or features.shape[-1] % 2:
            return None
        halved = torch.nn.functional.avg_pool2d(features, 2).to(self.sam.dtype)
        return Embedding(halved, embedding.frame, embedding.model)

    @torch.no_grad()
    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        """Low-resolution logits (P, M, 4h, 4w) and predicted IoU (P, M) as float32 tensors."""
        features = self._tensor(embedding.features, self.sam.dtype)
        points = None
        if prompts.points_xy is not None:
            points = (self._tensor(prompts.points_xy), self._tensor(prompts.labels))
        boxes, masks = self._tensor(prompts.boxes_xyxy), self._tensor(prompts.mask_logits)
        kinds = [points[0] if points else None, boxes, masks]
        total = max((len(k) for k in kinds if k is not None), default=1)
        prepared = self._prepare(features, total if masks is None else 1)
        inside_hw = self._inside_hw(embedding.frame, features) if prompts.inside_only else None

        @torch.no_grad()
        def decode_part(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            return self.sam.decode(
                features,
                (points[0][part], points[1][part]) if points else None,
                boxes[part] if boxes is not None else None,
                masks[part] if masks is not None else None,
                multimask,
                prepared,
                prompts.min_iou,
                inside_hw,
            )

        size = PROMPTS_AT_ONCE
        if self.num_threads > 1:
            size = min(size, max(FEWEST_AT_ONCE, -(-total // self.num_threads)))
        parts = [slice(i, i + size) for i in range(0, total, size)]
        if len(parts) == 1:
            return MaskBatch(*decode_part(parts[0]))  # all threads share its steps
        low_res, iou = zip(*self.side_by_side(decode_part, parts), strict=True)
        return MaskBatch(torch.cat(low_res), torch.cat(iou))

    @property
    def num_threads(self) -> int:
        """Threads in which blocks of prompts gain from being decoded side by side."""
        return torch.get_num_threads() if self.sam.device.type == "cpu" else 1

    def side_by_side(self, work: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Results of `work`, which decodes, for each of the items, in their order."""
        return in_threads(work, items) if self.num_threads > 1 else map(work, items)

    def _prepare(self, features: torch.Tensor, num_prompts: int) -> ImageTokens | LowRankImage:
        """The image side for prompts without masks, kept for the latest embedding."""
        with self._preparing:
            if self._prepared is None or self._prepared[0] is not features:
                self._prepared, self._low_rank = (features, self.sam.prepare(features)), None
            tokens = self._prepared[1]
            if num_prompts < MANY_PROMPTS or not goes_in_turn(tokens.keys):
                return tokens
            if self._low_rank is None:
                self._low_rank = self.sam.mask_decoder.low_rank(tokens)
            return self._low_rank

    def _inside_hw(self, frame: Frame, features: torch.Tensor) -> tuple[int, int]:
        """Rows and columns of cells whose logits reach the photo: those on it and one more for what is interpolated."""
        height, width = (
            min(cells, math.ceil(pixels * cells / self.side) + 1)
            for pixels, cells in zip(frame.input_hw, features.shape[-2:])
        )
        return height, width

    def _tensor(self, value: Any, dtype: torch.dtype = torch.float32) -> Any:
        if value is None:
            return None
        return torch.as_tensor(value, device=self.sam.device).to(dtype)
