"""Learn words from labelled photos: the file `words.safetensors` that ships, or one of your own.

    python -m anymask.text.learn train/ [more/] --out words.safetensors

Each labelled mask is seen as `OfflineEmbedder` sees it; a linear map brings that to the space of phrases. Two losses:
the mask's word among all words, and, for each word of a photo, its masks among all masks of the photo, unlabelled ones
too, on top of what ImageNet's names say already.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core import rle
from anymask.core.errors import AnymaskError, InputError
from anymask.core.files import write_aside
from anymask.core.images import read_image
from anymask.core.masks import pairwise_iou
from anymask.data.readers import Photo, open_dataset
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.options import preset_for
from anymask.predict.predictor import SamPredictor
from anymask.predict.segmenter import TorchSegmenter
from anymask.text.embedders import OfflineEmbedder
from anymask.text.words import SHIPPED, LearnedWords, arranged
from anymask.weights.load import load_model

MIN_AREA_PX = 100
SAME_IOU = 0.5
POINTS_PER_SIDE = 16  # of automatic masks, as for a phrase in `answer`
EPOCHS, PHOTOS_A_STEP, LR, WEIGHT_DECAY, DROPOUT = 12, 16, 1e-3, 1e-2, 0.5
_PANOPTIC = re.compile(r"(-other)?-(merged|stuff)$")  # COCO's names of things it lumped together


@dataclass(frozen=True)
class Lesson:
    """A photo with labels. x: (M, features). labels: (M,) a word's number, -1 without. named: (W, M) of its words."""

    x: Tensor
    labels: Tensor
    words: list[int]
    named: Tensor


def word_of(label: str) -> str:
    """A label as people write it: `wall-other-merged` is a wall, `traffic_light` a traffic light."""
    return re.sub(r"[-_]", " ", _PANOPTIC.sub("", label)).strip()


def lessons(
    photos: Iterable[Photo],
    embedder: OfflineEmbedder,
    more_masks: Callable[[np.ndarray], np.ndarray] | None = None,
    every: int = 1,
) -> tuple[list[str], list[Lesson]]:
    """The words, and what is to be learned of every photo that has one. Raises InputError where none has.

    more_masks: makes masks (M, H, W) bool of a photo (H, W, 3) uint8, such as automatic ones, for one photo of `every`.
    Each takes the word of the labelled mask that it is (IoU of 0.5); the others, mostly pieces of things, are what no
    word means.
    """
    seen: list[tuple[np.ndarray, list[str]]] = []
    for photo in photos:
        kept = [i for i, r in enumerate(photo.rles) if rle.area(r) >= MIN_AREA_PX]
        given = dict(enumerate(photo.labels))
        labels = [word_of(str(given.get(i) or "")) for i in kept]
        if any(labels):
            image = read_image(photo.encoded)
            if image.shape[:2] != photo.hw:
                image = cv2.resize(image, photo.hw[::-1], interpolation=cv2.INTER_AREA)
            masks = rle.decode([photo.rles[i] for i in kept])
            if more_masks is not None and len(seen) % every == 0:
                more = more_masks(image)
                labels += _labels_of(more, masks, labels)
                masks = np.concatenate([masks, more])
            seen.append((embedder.seen(image, masks), labels))
    words = sorted({label for _, labels in seen for label in labels if label})
    if not words:
        raise InputError("no mask has a label; expected photos with masks that carry a category.")
    number = {word: i for i, word in enumerate(words)}
    vectors = embedder.vectors(words)
    found = []
    for features, labels in seen:
        own = sorted({number[label] for label in labels if label})
        places = torch.tensor([number.get(label, -1) for label in labels])
        named = torch.from_numpy(embedder.named(vectors[own], features))
        found.append(Lesson(torch.from_numpy(arranged(features)), places, own, named))
    return words, found


def _labels_of(masks: np.ndarray, truth: np.ndarray, labels: list[str]) -> list[str]:
    """For masks (M, H, W) the labels of the truths (T, H, W) that they are; "" for those that are none."""
    iou = pairwise_iou(masks, truth)
    best = iou.argmax(axis=1)
    return [labels[j] if iou[i, j] >= SAME_IOU else "" for i, j in enumerate(best)]


def learn(vectors: np.ndarray, lessons: Sequence[Lesson], epochs: int = EPOCHS, seed: int = 0) -> LearnedWords:
    """Fit the map to words (N, 384) of length 1."""
    x = torch.cat([lesson.x for lesson in lessons])
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-3
    rng = np.random.default_rng(seed)
    words = torch.from_numpy(vectors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(x.shape[1], words.shape[1])
        layer.weight.data.mul_(0.1)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        batches = max(1, len(lessons) // PHOTOS_A_STEP)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, epochs * batches, pct_start=0.1)
        for _ in range(epochs):
            for part in np.array_split(rng.permutation(len(lessons)), batches):
                batch = [lessons[i] for i in part]
                z = layer(F.dropout((torch.cat([lesson.x for lesson in batch]) - mean) / std, DROPOUT))
                loss = _loss(z, words, batch)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    weight = layer.weight.detach() / std
    return LearnedWords(weight.numpy(), (layer.bias.detach() - weight @ mean).numpy(), vectors)


def _loss(z: Tensor, words: Tensor, batch: Sequence[Lesson]) -> Tensor:
    labels = torch.cat([lesson.labels for lesson in batch])
    is_named = labels >= 0
    own = labels[is_named]
    share = torch.bincount(own, minlength=len(words))[own].float().rsqrt()  # rare words count more
    each = F.cross_entropy(z[is_named] @ words.T, own, reduction="none")
    loss = (each * share).sum() / share.sum()
    choices = []
    for lesson, shown in zip(batch, torch.split(z, [len(lesson.labels) for lesson in batch])):
        scores = shown @ words[lesson.words].T + lesson.named.T  # (M, W)
        for word, score in zip(lesson.words, scores.T):
            meant = lesson.labels == word
            if not meant.all():
                choices.append(score.logsumexp(0) - score[meant].logsumexp(0))
    return loss + torch.stack(choices).mean() if choices else loss


def _automatic() -> Callable[[np.ndarray], np.ndarray]:
    """Automatic masks of `lite`, as a phrase finds them."""
    predictor = SamPredictor(TorchSegmenter(load_model("lite")))
    generator = SamAutomaticMaskGenerator(
        predictor, points_per_side=POINTS_PER_SIDE, preset=preset_for(predictor.segmenter)
    )

    def masks(image: np.ndarray) -> np.ndarray:
        found = [record["segmentation"] for record in generator.generate(image)]
        return np.array(found, bool).reshape(-1, *image.shape[:2])

    return masks


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="labelled photos, in any layout of `anymask data check`")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    about = "look at one photo of so many with automatic masks, too; 0: at none"
    parser.add_argument("--automatic-every", type=int, default=3, help=about)
    given = parser.parse_args()
    embedder = OfflineEmbedder(words=None)
    photos = (photo for path in given.data for photo in open_dataset(path))
    every = given.automatic_every
    try:
        words, found = lessons(photos, embedder, _automatic() if every else None, every)
    except AnymaskError as error:
        sys.exit(f"anymask: {error}")
    learned = learn(embedder.vectors(words), found)
    with write_aside(given.out) as place:
        learned.save(place)
    print(f"{len(words)} words from {sum(len(f.labels) for f in found):,} masks on {len(found):,} photos: {given.out}")


if __name__ == "__main__":
    main()
