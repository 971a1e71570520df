"""The paper's losses as named scalars (PAPER §3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    """Weights and the choices that the paper leaves open.

    focal, dice, iou: 20, 1 and 1 in the paper. alpha: class balance of the focal loss; None weighs both classes alike
    (0.25 and gamma 2 are the values of the detectors the paper cites). mean_share: share of the mean over the three
    masks beside the minimum, 0 in the paper. label_all_ious: supervise the IoU estimate of every mask, so that their
    ranking is learned, not only the estimate of the mask with the smallest loss.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    alpha: float | None = 0.25
    gamma: float = 2.0
    mean_share: float = 0.0
    label_all_ious: bool = True


@dataclass(frozen=True)
class RoundLoss:
    """Losses of one round, averaged over masks. total = mask + iou, already weighted; best_iou: (P) of the minimum."""

    total: Tensor
    mask: Tensor
    iou: Tensor
    best_iou: Tensor
    true_iou: Tensor


def focal_loss(logits: Tensor, target: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """Mean over pixels of the sigmoid focal loss; logits and target (…, H, W), target in [0, 1]: (…)."""
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    miss = p + target - 2 * p * target  # 1 - p_t, also for soft targets
    loss = bce * (miss * miss if gamma == 2 else miss**gamma)
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean(dim=(-2, -1))


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice coefficient of the probabilities, (…, H, W) to (…)."""
    p = logits.sigmoid()
    overlap = (p * target).sum(dim=(-2, -1))
    return 1 - (2 * overlap + smooth) / (p.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + smooth)


def mask_iou(logits: Tensor, target: Tensor, threshold: float = 0.0) -> Tensor:
    """IoU of thresholded logits (…, H, W) with a target in [0, 1] cut at 0.5: (…)."""
    predicted, truth = logits > threshold, target > 0.5
    union = (predicted | truth).sum(dim=(-2, -1))
    return (predicted & truth).sum(dim=(-2, -1)) / union.clamp(min=1)


def round_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, w: LossWeights) -> RoundLoss:
    """Loss of one round: logits (P, M, H, W), predicted IoU (P, M), target (P, H, W) in [0, 1]."""
    goal = target.unsqueeze(1).expand_as(logits)
    per_mask = w.focal * focal_loss(logits, goal, w.alpha, w.gamma) + w.dice * dice_loss(logits, goal)
    least, best = per_mask.min(dim=1)
    mask = (1 - w.mean_share) * least + w.mean_share * per_mask.mean(dim=1)
    with torch.no_grad():
        true_iou = mask_iou(logits, goal)  # (P, M)
    error = (predicted_iou - true_iou) ** 2
    iou = error.mean(dim=1) if w.label_all_ious else error.gather(1, best[:, None])[:, 0]
    mask_mean, iou_mean = mask.mean(), w.iou * iou.mean()
    best_iou = true_iou.gather(1, best[:, None])[:, 0]
    return RoundLoss(mask_mean + iou_mean, mask_mean, iou_mean, best_iou, true_iou)
