"""The same tiny model for our generator and the official one; for the tests of automatic masks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import MaskDecoder as OfficialDecoder
from segment_anything.modeling import PromptEncoder as OfficialPromptEncoder
from segment_anything.modeling import Sam as OfficialSam
from segment_anything.modeling import TwoWayTransformer as OfficialTransformer
from segment_anything.utils.transforms import ResizeLongestSide as OfficialResize

from anymask.core.geometry import Frame
from anymask.core.images import resize_image
from anymask.core.types import Embedding, MaskBatch, PromptBatch
from anymask.model.presets import sam_around
from anymask.model.sam import Sam


class TinyEncoder(torch.nn.Module):
    """One convolution from a 256×256 square to 16×16 cells."""

    img_size, stride = 256, 16

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 256, kernel_size=16, stride=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.conv(x)


def tiny_pair(seed: int = 0) -> tuple[Sam, OfficialSam]:
    """(ours, official) in evaluation mode with one state dict, and logits strong enough to be stable."""
    torch.manual_seed(seed)
    official = OfficialSam(
        TinyEncoder(),
        OfficialPromptEncoder(256, (16, 16), (256, 256), 16),
        OfficialDecoder(
            num_multimask_outputs=3,
            transformer=OfficialTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
        ),
    ).eval()
    with torch.no_grad():
        for mlp in official.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight *= 60
            mlp.layers[-1].bias *= 60
    ours = sam_around(TinyEncoder()).eval()
    ours.load_state_dict(official.state_dict())
    return ours, official


class BlobSegmenter:
    """A `Segmenter` without weights: regions of like colour around the clicked point, at three sizes.

    Gives what random weights do not: many local masks, with holes, islands, and every degree of stability.
    """

    side, mask_threshold, cells = 256, 0.0, 64
    sam = SimpleNamespace(state_dict=dict, dtype="float32", device=torch.device("cpu"))

    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        embeddings = []
        for image in images:
            frame = Frame.of(image.shape[:2], self.side)
            square = np.zeros((self.side, self.side, 3), np.uint8)
            square[: frame.input_hw[0], : frame.input_hw[1]] = resize_image(image, frame.input_hw)
            step = self.side // self.cells
            features = torch.as_tensor(square[::step, ::step].astype(np.float32)).permute(2, 0, 1)[None]
            embeddings.append(Embedding(features, frame))
        return embeddings

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        points = torch.as_tensor(prompts.points_xy, dtype=torch.float32)[:, 0]  # (P, 2)
        features = torch.as_tensor(embedding.features)[0]  # (3, h, w)
        at = (points * self.cells / self.side).long().clamp(0, self.cells - 1)
        colour = features[:, at[:, 1], at[:, 0]].T[:, :, None, None]  # (P, 3, 1, 1)
        unlike = (features[None] - colour).abs().mean(1)  # (P, h, w)
        axis = (torch.arange(self.cells) + 0.5) * self.side / self.cells
        far = (axis[None, None] - points[:, :1, None]) ** 2 + (axis[None, :, None] - points[:, 1:, None]) ** 2
        logits = [12.0137 - unlike / 4 - far.sqrt() / reach for reach in (1.5, 4.0, 16.0)]
        iou = [0.5 + 0.5 * torch.sin(points[:, 0] * (7 + k) + points[:, 1] * 3 + k).abs() for k in range(3)]
        return MaskBatch(torch.stack(logits, 1), torch.stack(iou, 1))


class OfficialBlobs:
    """`BlobSegmenter` behind the interface of the official predictor, with the official resizing of masks."""

    device = "cpu"

    def __init__(self) -> None:
        self.segmenter = BlobSegmenter()
        self.transform = OfficialResize(BlobSegmenter.side)
        self.model = SimpleNamespace(
            mask_threshold=0.0, image_encoder=SimpleNamespace(img_size=BlobSegmenter.side)
        )

    def set_image(self, image: np.ndarray) -> None:
        (self.embedding,) = self.segmenter.encode([image])

    def reset_image(self) -> None:
        del self.embedding

    def predict_torch(self, points: torch.Tensor, labels: torch.Tensor, **options: bool) -> tuple:
        answer = self.segmenter.decode(self.embedding, PromptBatch(points, labels), True)
        frame = self.embedding.frame
        masks = OfficialSam.postprocess_masks(self.model, answer.low_res, frame.input_hw, frame.original_hw)
        return masks, answer.predicted_iou, answer.low_res


def blobby_photo(seed: int = 0, hw: tuple[int, int] = (150, 211)) -> np.ndarray:
    """Soft coloured regions with speckles: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize(hw[::-1], Image.Resampling.BICUBIC))
    speckled = rng.random(hw) < 0.01
    image[speckled] = 255 - image[speckled]
    return image
