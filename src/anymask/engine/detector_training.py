"""Training the object detector from stage-1 masks: encode each photo once, then many cheap steps on embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from anymask.core.errors import ImageError, InputError
from anymask.core.images import read_image
from anymask.core.rle import to_bbox_xywh
from anymask.engine.detector import ObjectDetector, boxes_in_frame
from anymask.engine.photos import check_photo
from anymask.engine.store import Store
from anymask.predict.segmenter import TorchSegmenter
from anymask.train.cache import encoder_key

SAY_EVERY = 50  # steps


@dataclass(frozen=True)
class DetectorRecipe:
    """steps of AdamW on `photos` photos each; the rate warms up over 20 steps and falls to zero in a cosine."""

    steps: int = 300
    photos: int = 2
    lr: float = 4e-4
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.photos < 1:
            raise InputError(f"a detector needs at least 1 step of 1 photo, got {self.steps} and {self.photos}.")


@dataclass(frozen=True)
class DetectorData:
    """Photos whose stage-1 masks teach a detector: ids, and boxes (K, 4) xywh of each."""

    image_ids: list[int]
    boxes_xywh: list[np.ndarray]

    @property
    def num_boxes(self) -> int:
        """Boxes of all photos."""
        return sum(map(len, self.boxes_xywh))


def stage_one_boxes(store: Store, project_id: int) -> DetectorData:
    """Boxes of all current stage-1 masks that are not rejected. InputError where there is none."""
    ids = [image.id for image in store.images(project_id) if image.hw is not None]
    by_image: dict[int, list[list[int]]] = {}
    for mask in store.masks(ids):
        if mask.stage == 1 and mask.state != "rejected":
            by_image.setdefault(mask.image_id, []).append(to_bbox_xywh(mask.rle))
    if not by_image:
        raise InputError(
            "there are no masks of stage 1 to train a detector on. Annotate photos first (anymask serve, or anymask "
            "engine simulate), or import masks as stage 1: anymask engine import --stage 1."
        )
    return DetectorData(list(by_image), [np.array(boxes) for boxes in by_image.values()])


def train_detector(
    store: Store,
    segmenter: TorchSegmenter,
    data: DetectorData,
    recipe: DetectorRecipe,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[ObjectDetector, dict[str, object]]:
    """A trained detector and the facts of its training. Photos that are gone are left out and told.

    Embeddings lie in a temporary file, 2 MB a photo for lite, so memory does not grow with their number. The same
    seed, masks and weights give the same detector. InputError where no photo can be read.
    """
    torch.manual_seed(recipe.seed)
    detector = ObjectDetector(segmenter.side, encoder_key(segmenter.sam)).train()
    with tempfile.TemporaryDirectory(prefix="anymask-detector-") as folder:
        features, boxes = _encode(store, segmenter, data, Path(folder) / "features.f16", say)
        optimizer = torch.optim.AdamW(detector.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
        draw = np.random.default_rng(recipe.seed)
        recent: list[float] = []
        for step in range(1, recipe.steps + 1):
            chosen = draw.integers(0, len(boxes), recipe.photos)
            batch = torch.from_numpy(features[chosen].astype(np.float32))
            losses = detector(batch, [boxes[i] for i in chosen])
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                raise InputError(f"the detector's loss is {total.item()} at step {step}; lower its rate.")
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            recent = [*recent[-(SAY_EVERY - 1) :], total.item()]
            if step % SAY_EVERY == 0 or step == recipe.steps:
                say(f"detector: step {step} of {recipe.steps}, loss {np.mean(recent):.3f}")
        del features
    facts = {**asdict(recipe), "num_photos": len(boxes), "num_boxes": data.num_boxes, "loss": float(np.mean(recent))}
    return detector.eval(), facts


def _encode(
    store: Store, segmenter: TorchSegmenter, data: DetectorData, file: Path, say: Callable[[str], None]
) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Embeddings (K, C, h, w) float16 on disk, and boxes of each in the model frame."""
    features: np.memmap | None = None
    boxes: list[torch.Tensor] = []
    for done, (image_id, own) in enumerate(zip(data.image_ids, data.boxes_xywh), 1):
        try:
            photo = read_image(check_photo(store, image_id))
        except ImageError as error:
            say(str(error))
            continue
        (embedding,) = segmenter.encode([photo])
        cells = embedding.features[0].float().cpu().numpy()
        if features is None:
            features = np.memmap(file, np.float16, "w+", shape=(len(data.image_ids), *cells.shape))
        features[len(boxes)] = cells
        boxes.append(boxes_in_frame(own, embedding))
        if done % SAY_EVERY == 0 or done == len(data.image_ids):
            say(f"detector: {done} of {len(data.image_ids)} photos encoded")
    if features is None:
        raise InputError("none of the photos with stage-1 masks can be read any more; put them back.")
    return features, boxes


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 20)
    return warm * 0.5 * (1 + float(np.cos(np.pi * step / steps)))
