"""`ExportedSegmenter`: three graphs (encoder, prepare, decode) behind the `Segmenter` protocol, whatever runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from anymask.core.errors import ExportError
from anymask.core.geometry import Frame
from anymask.core.images import resize_image
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.runtime.manifest import Manifest, check_files, read_manifest

PROMPTS_AT_ONCE = 16  # decoded together; the state of more does not stay in cache

Arrays = dict[str, np.ndarray]


class Backend(Protocol):
    """Runs the graphs of one exported folder."""

    def run(self, graph: str, inputs: Arrays) -> Arrays:
        """Outputs by name of "encoder", "prepare" or "decode"; inputs that the graph does not have are ignored."""
        ...


class ExportedSegmenter:
    """Encode photos and decode prompts with exported graphs; tensors out, as from `TorchSegmenter`."""

    def __init__(self, backend: Backend, manifest: Manifest) -> None:
        self.backend = backend
        self.manifest = manifest
        self.side = manifest.side
        self.mask_threshold = manifest.mask_threshold
        self.low_res_hw = manifest.low_res_hw
        self.fingerprint = manifest.fingerprint
        self.preset = "lite" if manifest.model == "lite" else "official"  # of automatic masks
        self._prepared: tuple[Any, Arrays] | None = None  # of the latest embedding

    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        """Photos (H, W, 3) uint8 RGB to embeddings; one at a time, as more at once gain nothing on a CPU."""
        frames = [Frame.of((image.shape[0], image.shape[1]), self.side) for image in images]
        return [self._encode(resize_image(image, f.input_hw), f) for image, f in zip(images, frames)]

    def encode_scaled(self, tensors: list[torch.Tensor], frames: list[Frame]) -> list[Embedding]:
        """Photos already scaled to their frames, (3, h, w) on the 0..255 scale, rounded to whole levels."""
        pixels = [t.detach().round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy() for t in tensors]
        return [self._encode(np.ascontiguousarray(p), frame) for p, frame in zip(pixels, frames)]

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        """Low-resolution logits (P, M, 4h, 4w) and predicted IoU (P, M) as float32 tensors."""
        coords, labels = point_slots(prompts)
        masks = None if prompts.mask_logits is None else _array(prompts.mask_logits)
        total = max(len(coords), 1 if masks is None else len(masks))
        coords, labels = (np.broadcast_to(x, (total, *x.shape[1:])) if len(x) == 1 else x for x in (coords, labels))
        fixed = self._prepare(embedding.features) | {"has_mask_input": np.array([masks is not None], np.float32)}
        blank = np.zeros((1, 1, *self.low_res_hw), np.float32)
        chosen = slice(1, None) if multimask else slice(0, 1)
        low_res, iou = [], []
        for start in range(0, total, PROMPTS_AT_ONCE):
            part = slice(start, start + PROMPTS_AT_ONCE)
            given = blank if masks is None else masks if len(masks) == 1 else masks[part]
            slots = {"point_coords": coords[part], "point_labels": labels[part], "mask_input": given}
            answer = self.backend.run("decode", fixed | slots)
            low_res.append(answer["low_res_masks"][:, chosen])
            iou.append(answer["iou_predictions"][:, chosen])
        return MaskBatch(torch.from_numpy(np.concatenate(low_res)), torch.from_numpy(np.concatenate(iou)))

    def _encode(self, pixels: np.ndarray, frame: Frame) -> Embedding:
        features = self.backend.run("encoder", {"input_image": pixels[None]})["image_embeddings"]
        return Embedding(torch.from_numpy(np.array(features)), frame, self.fingerprint)

    def _prepare(self, features: Any) -> Arrays:
        """What the decoder needs of the photo, kept for the latest embedding."""
        if self._prepared is None or self._prepared[0] is not features:
            outputs = self.backend.run("prepare", {"image_embeddings": _array(features)})
            self._prepared = (features, {name: np.array(value) for name, value in outputs.items()})
        return self._prepared[1]


def point_slots(prompts: PromptBatch) -> tuple[np.ndarray, np.ndarray]:
    """Point slots (P, N, 2) and their labels (P, N) float32: points, then padding, or the box's corners.

    The same order as in `PromptEncoder.embed_sparse`; without points and boxes there are no slots (N = 0).
    """
    coords, labels = [np.zeros((1, 0, 2), np.float32)], [np.zeros((1, 0), np.float32)]
    if prompts.points_xy is not None:
        coords.append(_array(prompts.points_xy))
        labels.append(_array(prompts.labels))
        if prompts.boxes_xyxy is None:
            coords.append(np.zeros((1, 1, 2), np.float32))
            labels.append(np.full((1, 1), -1, np.float32))
    if prompts.boxes_xyxy is not None:
        coords.append(_array(prompts.boxes_xyxy).reshape(-1, 2, 2))
        labels.append(np.array([[2, 3]], np.float32))
    total = max(map(len, coords))
    return (
        np.concatenate([np.broadcast_to(x, (total, *x.shape[1:])) for x in coords], axis=1),
        np.concatenate([np.broadcast_to(x, (total, *x.shape[1:])) for x in labels], axis=1),
    )


def load_segmenter(folder: str | Path, num_threads: int | None = None) -> ExportedSegmenter:
    """An exported folder, ready to use with ONNX Runtime or OpenVINO, as its `model.json` says.

    num_threads: of each operation; None leaves it to the runtime. Raises ExportError for a folder that is incomplete
    or was changed, MissingExtraError where the runtime is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return ExportedSegmenter(open_backend(folder, manifest, num_threads), manifest)


def open_backend(
    folder: Path, manifest: Manifest, num_threads: int | None = None, precision: str | None = None
) -> Backend:
    """Whatever runs the graphs of this folder; precision: of OpenVINO's encoder, see `OpenVinoBackend`."""
    if set(manifest.files) != {"encoder", "prepare", "decode"}:
        raise ExportError(f"{folder} should hold encoder, prepare and decode, but holds {', '.join(manifest.files)}.")
    names = {graph: next(iter(files)) for graph, files in manifest.files.items()}
    if manifest.form == "onnx":
        from anymask.runtime.onnxruntime import OnnxBackend

        return OnnxBackend({graph: folder / name for graph, name in names.items()}, num_threads)
    from anymask.runtime.openvino import OpenVinoBackend

    return OpenVinoBackend({graph: folder / name for graph, name in names.items()}, num_threads, precision)


def _array(value: Any) -> np.ndarray:
    """A tensor or array as contiguous float32 in main memory."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    return np.ascontiguousarray(value, dtype=np.float32)
