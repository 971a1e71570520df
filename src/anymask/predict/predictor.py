"""`SamPredictor`: set an image once, then ask for masks as often as you like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.core.errors import ImageError, OptionError, PromptError, StateError
from anymask.core.geometry import Frame
from anymask.core.images import read_image
from anymask.core.masks import fill_holes_and_sprinkles, mask_to_logits
from anymask.core.types import Embedding, PromptBatch
from anymask.model.sam import Sam
from anymask.model.upscale import upscale_logits, upscale_masks
from anymask.predict.embeddings import load_embedding, save_embedding
from anymask.predict.prompts import check_prompts
from anymask.predict.segmenter import TorchSegmenter
from anymask.predict.transforms import ResizeLongestSide
from anymask.predict.zoom import OUTSIDE, Zoom

Masks = tuple[np.ndarray, np.ndarray, np.ndarray]


class SamPredictor:
    """Masks for points, boxes and masks on one image or a batch of images.

    sam_model: a `Sam`, or another `Segmenter`, such as an exported model.
    mask_threshold: logits above it are inside, None takes the model's (0.0).
    max_hole_area, max_sprinkle_area: holes and islands of up to this many pixels of the photo are filled and
    removed; 0 keeps them.
    """

    def __init__(
        self,
        sam_model: Any,
        mask_threshold: float | None = None,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        self.model = sam_model
        self.segmenter: Any = TorchSegmenter(sam_model) if isinstance(sam_model, Sam) else sam_model
        self.transform = ResizeLongestSide(self.segmenter.side)
        self.mask_threshold = self.segmenter.mask_threshold if mask_threshold is None else mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self._embeddings: list[Embedding] = []
        self._photos: list[np.ndarray] = []  # for zooming in; none where only the embedding was given
        self._is_batch = False

    @classmethod
    def from_pretrained(cls, model_id: str = "lite", **options: Any) -> SamPredictor:
        """A predictor for a model by name ("lite", "vit_b" …) or by a path to its weights."""
        from anymask.model.precision import place
        from anymask.weights.load import load_model

        placing = {k: options.pop(k) for k in ("device", "precision") if k in options}
        return cls(place(load_model(model_id), **placing), **options)

    # --- the image ---------------------------------------------------------------------------------------------

    def set_image(self, image: Any, image_format: str = "RGB") -> None:
        """Encode a photo: (H, W, 3) uint8, a PIL image, or a path. image_format: "RGB" or "BGR", for arrays."""
        self.set_image_batch([image], image_format)
        self._is_batch = False

    def set_image_batch(self, images: Sequence[Any], image_format: str = "RGB") -> None:
        """Encode several photos, which may differ in size, in one batch; then call `predict_batch`."""
        if not images:
            raise ImageError("set_image_batch needs at least one image, got an empty list.")
        if image_format not in ("RGB", "BGR"):
            raise OptionError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
        self.reset_image()
        photos = [read_image(image, image_format=image_format) for image in images]
        self._embeddings, self._photos = self.segmenter.encode(photos), photos
        self._is_batch = True

    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode an image already scaled: (1, 3, h, w) on the 0..255 scale, longer side = the model's side."""
        side = self.segmenter.side
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ImageError(
                f"set_torch_image expects (1, 3, h, w) with the longer side {side}, got {shape}; "
                "scale it with predictor.transform.apply_image_torch first."
            )
        self.reset_image()
        height, width = original_image_size
        frame = Frame((int(height), int(width)), (shape[2], shape[3]), side)
        scaled = transformed_image[0].to(self.device)
        self._embeddings = self.segmenter.encode_scaled([scaled], [frame])

    def set_embedding(self, embedding: Embedding) -> None:
        """Use an embedding made earlier, by this or another process, with the same model."""
        own = self.segmenter.fingerprint
        if embedding.model and embedding.model != own:
            raise StateError(
                f"this embedding was made by another model (fingerprint {embedding.model}, this one is {own}); "
                "load the model it was made with, or encode the image again."
            )
        self.reset_image()
        self._embeddings = [embedding]

    def save_embedding(self, path: str | Path) -> None:
        """Store the embedding of the image that is set, complete with its frame, as safetensors."""
        save_embedding(self._one(), Path(path))

    def load_embedding(self, path: str | Path) -> None:
        """Use an embedding stored by `save_embedding`, or a `{features, original_size, input_size}` dump."""
        self.set_embedding(load_embedding(Path(path), self.segmenter.side))

    def reset_image(self) -> None:
        """Forget the image."""
        self._embeddings, self._photos = [], []
        self._is_batch = False

    reset_predictor = reset_image

    def get_image_embedding(self) -> Tensor:
        """The embedding of the image that is set, (1, C, h, w)."""
        return self.features

    @property
    def is_image_set(self) -> bool:
        """Is there an image to predict on?"""
        return bool(self._embeddings)

    @property
    def embedding(self) -> Embedding:
        """The embedding of the image that is set, with its frame."""
        return self._one()

    @property
    def features(self) -> Tensor:
        """The embedding (1, C, h, w)."""
        return torch.as_tensor(self._one().features)

    @property
    def original_size(self) -> tuple[int, int]:
        """Size of the photo (H, W)."""
        return self._one().frame.original_hw

    @property
    def input_size(self) -> tuple[int, int]:
        """Size of the photo inside the model's square (H, W)."""
        return self._one().frame.input_hw

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return getattr(self.model, "device", torch.device("cpu"))

    # --- masks -------------------------------------------------------------------------------------------------

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
        zoom: bool = False,
    ) -> Masks:
        """Masks for one prompt, or for P prompts at once.

        point_coords: (N, 2) XY pixels of the photo. point_labels: (N), 1 foreground, 0 background. box: (4) XYXY.
        mask_input: (1, 4h, 4w) logits, such as the low-res masks of an earlier call. With a leading axis P the same
        for P prompts. multimask_output: three candidates, best for a single, ambiguous prompt; else one mask.
        return_logits: logits instead of booleans. normalize_coords: False where coordinates are in 0 … 1.
        zoom: answer prompts on small things again on a crop around them; better masks for one more encoding a prompt
        (see `predict.zoom`).

        Returns masks (M, H, W) bool, predicted IoU (M), low-resolution logits (M, 4h, 4w); with P > 1 prompts each
        has a leading axis P. Raises PromptError for prompts that cannot be used, StateError without an image.
        """
        self._one()
        return self._predict(
            0,
            (point_coords, point_labels, box, mask_input, normalize_coords),
            multimask_output,
            return_logits,
            zoom,
        )

    def predict_batch(
        self,
        point_coords_batch: Sequence[Any] | None = None,
        point_labels_batch: Sequence[Any] | None = None,
        box_batch: Sequence[Any] | None = None,
        mask_input_batch: Sequence[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
        zoom: bool = False,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """`predict` for every image of `set_image_batch`; images may have different numbers of prompts.

        Each argument is None or a list with one entry (or None) for each image, as `predict` takes it.
        """
        if not self._is_batch:
            raise StateError("predict_batch needs a batch of images: call set_image_batch first.")
        count = len(self._embeddings)
        columns = []
        for name, column in (
            ("point_coords_batch", point_coords_batch),
            ("point_labels_batch", point_labels_batch),
            ("box_batch", box_batch),
            ("mask_input_batch", mask_input_batch),
        ):
            if column is not None and len(column) != count:
                raise PromptError(f"{name} must have one entry for each of the {count} images, got {len(column)}.")
            columns.append([None] * count if column is None else list(column))
        results = [
            self._predict(i, (*prompt, normalize_coords), multimask_output, return_logits, zoom)
            for i, prompt in enumerate(zip(*columns))
        ]
        masks, ious, low_res = (list(column) for column in zip(*results))
        return masks, ious, low_res

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """P prompts as tensors already in the model frame (see `transform`).

        point_coords (P, N, 2), point_labels (P, N), boxes (P, 4), mask_input (P, 1, 4h, 4w). Returns masks
        (P, M, H, W), predicted IoU (P, M), low-resolution logits (P, M, 4h, 4w).
        """
        embedding = self._one()
        boxes = boxes.reshape(-1, 4) if boxes is not None else None
        batch = PromptBatch(point_coords, point_labels, boxes, mask_input)
        answer = self.segmenter.decode(embedding, batch, multimask_output)
        frame = embedding.frame
        return self._upscale(answer.low_res, frame, return_logits), answer.predicted_iou, answer.low_res

    def mask_to_logits(self, mask: np.ndarray) -> np.ndarray:
        """A binary mask (H, W) of the photo that is set, as a `mask_input` (1, 4h, 4w)."""
        return mask_to_logits(mask, self._one().frame, self.segmenter.low_res_hw)

    def _predict(
        self, at: int, prompt: tuple[Any, ...], multimask: bool, return_logits: bool, zoom: bool
    ) -> Masks:
        embedding = self._embeddings[at]
        checked = check_prompts(embedding.frame, self.segmenter.low_res_hw, *prompt)
        if zoom:
            masks, predicted_iou, low_res = self._zoomed(at, checked.batch, multimask, return_logits)
        else:
            answer = self.segmenter.decode(embedding, checked.batch, multimask)
            masks = self._upscale(answer.low_res, embedding.frame, return_logits).cpu().numpy()
            predicted_iou, low_res = answer.predicted_iou.cpu().numpy(), answer.low_res.cpu().numpy()
        if not return_logits and (self.max_hole_area > 0 or self.max_sprinkle_area > 0):
            flat = masks.reshape(-1, *masks.shape[-2:])
            cleaned = fill_holes_and_sprinkles(flat, self.max_hole_area, self.max_sprinkle_area)
            masks = cleaned.reshape(masks.shape)
        outputs = (masks, predicted_iou, low_res)
        return outputs if checked.batched else tuple(x[0] for x in outputs)

    def _zoomed(self, at: int, prompts: PromptBatch, multimask: bool, return_logits: bool) -> Masks:
        if not self._photos:
            raise StateError("zoom needs the photo, and only its embedding is set: call set_image(...), or zoom=False.")
        embedding, level = self._embeddings[at], self.mask_threshold
        looks = Zoom(self.segmenter, self._photos[at], embedding).decode(prompts, multimask)
        hw, count = embedding.frame.original_hw, len(looks[0].predicted_iou)
        nothing = np.float32(OUTSIDE) if return_logits else np.bool_(False)
        masks = np.full((len(looks), count, *hw), nothing)
        for row, look in zip(masks, looks):
            for mask, patch in zip(row, look.patches(-np.inf if return_logits else level)):
                height, width = patch.values.shape
                part = mask[patch.top : patch.top + height, patch.left : patch.left + width]
                part[:] = patch.values if return_logits else patch.values > level
        low_res = [look.on(embedding.frame, self.segmenter.low_res_hw) for look in looks]
        return masks, np.stack([look.predicted_iou for look in looks]), np.stack(low_res)

    @torch.no_grad()
    def _upscale(self, low_res: Tensor, frame: Frame, return_logits: bool) -> Tensor:
        """Masks (P, M, H, W), or their logits."""
        geometry = (frame.side, frame.input_hw, frame.original_hw)
        if return_logits:
            return upscale_logits(low_res, *geometry)
        return upscale_masks(low_res, *geometry, self.mask_threshold)

    def _one(self) -> Embedding:
        if not self._embeddings:
            raise StateError("no image is set: call set_image(...) before asking for masks.")
        if self._is_batch and len(self._embeddings) > 1:
            raise StateError("a batch of images is set: use predict_batch, or set one image with set_image.")
        return self._embeddings[0]

