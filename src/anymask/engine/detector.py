"""A detector of objects without classes, on the model's own embedding: where stage 2 prompts the model (PAPER §4.3).

Faster R-CNN's two stages from torchvision: a region proposal network and a box head with one class, "object". The
image encoder is the model's and is not trained, so a detector belongs to the model version it was trained with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anymask.core.errors import CheckpointError, MissingExtraError
from anymask.core.files import write_aside
from anymask.core.geometry import to_model_xyxy, to_original_xyxy
from anymask.core.types import Embedding

_FORMAT = "anymask-detector"
CHANNELS = 256  # of every model's embedding


@dataclass(frozen=True)
class Boxes:
    """boxes_xyxy: (K, 4) float32 in pixels of the photo, best first. scores: (K,) 0 … 1."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray


class ObjectDetector(nn.Module):
    """Boxes of objects from embeddings (B, 256, h, w) of S×S squares.

    side: S in pixels. model: fingerprint of the encoder's weights that it was trained on (`train.cache.encoder_key`).
    """

    def __init__(self, side: int, model: str) -> None:
        super().__init__()
        self.side, self.model = side, model
        try:
            from torchvision.models.detection.anchor_utils import AnchorGenerator
            from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
            from torchvision.models.detection.roi_heads import RoIHeads
            from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
            from torchvision.ops import MultiScaleRoIAlign
        except ImportError as error:
            raise MissingExtraError("the detector needs torchvision: pip install 'anymask[engine]'.") from error
        sizes = tuple(round(side / part) for part in (24, 12, 6, 3, 1.5))
        anchors = AnchorGenerator((sizes,), ((0.5, 1.0, 2.0),))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(CHANNELS, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 1000, "testing": 1000},
            post_nms_top_n={"training": 500, "testing": 300},
            nms_thresh=0.7,
        )
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=2),
            TwoMLPHead(CHANNELS * 5 * 5, 256),
            FastRCNNPredictor(256, num_classes=2),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=128,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )

    def forward(self, features: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        """Named losses. features: (B, 256, h, w). boxes: for each photo (K, 4) xyxy in the S×S frame, K above 0."""
        targets = [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.int64, device=b.device)} for b in boxes]
        return self._run(features, targets)[1]

    @torch.no_grad()
    def find(self, embedding: Embedding, min_score: float = 0.05) -> Boxes:
        """Objects of one photo with a score of at least `min_score`."""
        features = torch.as_tensor(embedding.features).float().to(next(self.parameters()).device)
        (found,), _ = self.eval()._run(features, None)
        height, width = embedding.frame.original_hw
        boxes = to_original_xyxy(found["boxes"].cpu().numpy(), embedding.frame)
        boxes = boxes.clip(0, (width, height, width, height)).astype(np.float32)
        scores = found["scores"].cpu().numpy()
        kept = (scores >= min_score) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
        return Boxes(boxes[kept], scores[kept])

    def _run(self, features: Tensor, targets: Any) -> tuple[Any, dict[str, Tensor]]:
        from torchvision.models.detection.image_list import ImageList

        squares = [(self.side, self.side)] * len(features)
        blank = features.new_zeros(1).expand(len(features), 1, self.side, self.side)  # only its size is asked for
        proposals, losses = self.rpn(ImageList(blank, squares), {"0": features}, targets)
        found, more = self.roi_heads({"0": features}, proposals, squares, targets)
        return found, {**losses, **more}


def boxes_in_frame(boxes_xywh: np.ndarray, embedding: Embedding) -> Tensor:
    """COCO's boxes (K, 4) of masks to xyxy (K, 4) float32 in the model frame."""
    boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4).copy()
    boxes[:, 2:] += boxes[:, :2]
    return torch.as_tensor(to_model_xyxy(boxes, embedding.frame), dtype=torch.float32)


def save_detector(detector: ObjectDetector, path: Path, facts: dict[str, Any]) -> None:
    """One safetensors file, whole or not at all. facts: how it was trained; JSON."""
    from safetensors.torch import save_file

    about = {"format": _FORMAT, "side": str(detector.side), "model": detector.model, "facts": json.dumps(facts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in detector.state_dict().items()}, part, about)


def load_detector(path: Path, model: str) -> ObjectDetector:
    """A detector for the model with this encoder key; CheckpointError for a broken file or another model's detector."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no detector: {error}. Make one: anymask engine detector.") from error
    if about.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is no detector; expected a file that `anymask engine detector` made.")
    if about["model"] != model:
        raise CheckpointError(
            f"{path} was trained on another model's embeddings ({about['model']}; the model that serves now is "
            f"{model}). Train it again: anymask engine detector."
        )
    detector = ObjectDetector(int(about["side"]), about["model"])
    try:
        detector.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the weights of a detector: {error}") from error
    return detector.eval()
