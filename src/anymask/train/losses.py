"""The paper's losses as named scalars (PAPER §3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from anymask.model.threads import for_each


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


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice coefficient of the probabilities, (…, H, W) to (…)."""
    p = logits.sigmoid()
    overlap = (p * target).sum(dim=(-2, -1))
    return 1 - (2 * overlap + smooth) / (p.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + smooth)


def mask_iou(logits: Tensor, target: Tensor, threshold: float = 0.0) -> Tensor:
    """IoU of thresholded logits (…, H, W) with a target in [0, 1] cut at 0.5: (…)."""
    predicted, truth = _ones_above(logits, threshold), _ones_above(target, 0.5)
    both = _summed(predicted * truth)
    return both / (_summed(predicted) + _summed(truth) - both).clamp(min=1)


def mask_losses(logits: Tensor, target: Tensor, w: LossWeights) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, weighted and added up, and IoU of every mask, both (P, M).

    logits: (P, M, H, W). target: (P, H, W) in [0, 1].
    """
    found: tuple[Tensor, Tensor] = _MaskLosses.apply(logits, target, w)
    return found


def round_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, w: LossWeights) -> RoundLoss:
    """Loss of one round: logits (P, M, H, W), predicted IoU (P, M), target (P, H, W) in [0, 1]."""
    per_mask, true_iou = mask_losses(logits, target, w)
    least, best = per_mask.min(dim=1)
    mask = (1 - w.mean_share) * least + w.mean_share * per_mask.mean(dim=1)
    error = (predicted_iou - true_iou) ** 2
    iou = error.mean(dim=1) if w.label_all_ious else error.gather(1, best[:, None])[:, 0]
    mask_mean, iou_mean = mask.mean(), w.iou * iou.mean()
    best_iou = true_iou.gather(1, best[:, None])[:, 0]
    return RoundLoss(mask_mean + iou_mean, mask_mean, iou_mean, best_iou, true_iou)


class _MaskLosses(Function):
    """Its gradient is written out; on a CPU one prompt comes after the other, so that its pixels stay in a cache."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, w: LossWeights) -> tuple[Tensor, Tensor]:
        if logits.device.type == "cpu":
            of_prompts = for_each(lambda i: _judged(logits[i], target[i], w), len(logits))
            losses, ious, slopes = (torch.stack(found) for found in zip(*of_prompts, strict=True))
        else:
            losses, ious, slopes = _judged(logits, target.unsqueeze(1), w)
        ctx.mark_non_differentiable(ious)
        ctx.save_for_backward(slopes)
        return losses, ious

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad[..., None, None], None, None


def _judged(x: Tensor, t: Tensor, w: LossWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and IoU (…) of logits x (…, H, W) against t in [0, 1], and the derivative of the loss by x.

    With p = sigmoid(x), the cross entropy c, a miss m = p + t - 2pt (1 - p_t, for soft targets as well) and the balance
    a of the classes: the focal loss is the mean of a·mᵞ·c, the dice loss 1 - (2·Σpt + 1) / (Σp + Σt + 1).
    """
    p, turn = x.sigmoid(), 1 - 2 * t
    c = F.softplus(x).addcmul_(t, x, value=-1)
    m = torch.addcmul(t, turn, p)
    if w.gamma < 1:
        m.clamp_(min=torch.finfo(m.dtype).tiny)
    less = m.clone() if w.gamma == 2 else m ** (w.gamma - 1)
    if w.alpha is not None:
        less *= torch.add(1 - w.alpha, t, alpha=2 * w.alpha - 1)
    m *= less  # now a·mᵞ, and less has one m less
    overlap, size = 2 * _summed(p * t) + 1, _summed(p) + _summed(t) + 1
    losses = w.focal * (m * c).mean(dim=(-2, -1)) + w.dice * (1 - overlap / size)
    near, far = w.dice * overlap / size**2, -2 * w.dice / size
    share = w.focal / (x.shape[-2] * x.shape[-1])
    slope = c.mul_(turn).mul_(less).mul_(share * w.gamma)
    slope.addcmul_(t, far[..., None, None]).add_(near[..., None, None]).mul_(torch.addcmul(p, p, p, value=-1))
    slope.addcmul_(m, p.sub_(t), value=share)
    return losses, mask_iou(x, t), slope


def _summed(x: Tensor) -> Tensor:
    return x.sum(dim=(-2, -1))


def _ones_above(x: Tensor, threshold: float) -> Tensor:
    """1 where x is above the threshold and 0 elsewhere, in float32."""
    return torch.gt(x, threshold, out=torch.empty_like(x, dtype=torch.float32))
