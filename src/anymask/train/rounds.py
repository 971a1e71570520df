"""The interactive rounds of one photo: prompts, masks, losses, hand-over (PAPER §3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.model.prompt_encoder import BOX_TOP_LEFT
from anymask.model.sam import Sam
from anymask.train.clicks import Draws, Prompts, corrective_clicks, first_prompts, no_prompts
from anymask.train.losses import LossWeights, round_loss


@dataclass(frozen=True)
class Shown:
    """What a person may look at: the first mask of a photo in every round.

    truth: (h, w) bool. masks: (h, w) bool of each round, the one that was handed over. prompts: of the last round, (1,
    N) points in the S×S frame.
    """

    truth: Tensor
    masks: list[Tensor]
    prompts: Prompts


@dataclass(frozen=True)
class RoundsResult:
    """loss: mean over the rounds, and the lesson of `distil` where there is one. per_round: detached scalars, one dict
    for each round. shown: of the first mask. num_masks, num_boxed: how many, and how many started as a box.

    The scalars: loss, mask (its focal and dice part), best_iou of the mask with the least loss, point_iou and box_iou
    of those that started so, chosen_iou of the mask with the highest predicted IoU, positive_clicks: share of
    foreground among the round's new clicks; None where there is nothing to average.
    """

    loss: Tensor
    per_round: list[dict[str, float | None]]
    shown: Shown
    num_masks: int
    num_boxed: int


def run_rounds(
    sam: Sam,
    embedding: Tensor,
    masks: Tensor,
    side: int,
    plan: list[bool],
    weights: LossWeights,
    draws: Draws,
    box_chance: float = 0.5,
    through_time: bool = False,
    on_loss: Callable[[Tensor], None] | None = None,
    text: Tensor | None = None,
    distil: float = 0.0,
) -> RoundsResult:
    """All rounds for the masks of one photo.

    embedding: (1, C, h, w). masks: (P, S, S) uint8. plan: `clicks.round_plan`. draws: for these masks and
    len(plan) + 1 rounds. through_time: let gradients flow through the logits that are fed back; detached otherwise,
    which is cheaper and the default (the paper is silent).
    on_loss: gets every round's share of the loss as soon as it is known; a backward pass there frees the round's graph
    before the next one is built. Not with `through_time`, where the rounds are one graph. text: vectors (P, D), the
    first prompt in place of points and boxes. distil: weight, beside a round, of the first prompt answered once more
    with the last mask's probabilities as its target.
    """
    if through_time and on_loss:
        raise ValueError("with through_time the rounds share one graph: use the returned loss.")
    h, w = embedding.shape[-2:]
    target = F.interpolate(masks[None].float(), size=(4 * h, 4 * w), mode="area")[0]
    solid = target > 0.5
    empty = ~solid.flatten(1).any(dim=1)  # thinner than a logit everywhere: take its densest places
    if empty.any():
        peak = target.flatten(1).amax(dim=1)[:, None, None]
        solid = torch.where(empty[:, None, None], target >= peak, solid)
    prompts = first_prompts(solid, side, draws, box_chance) if text is None else no_prompts(solid)
    first, previous = prompts, None
    boxed = (prompts.labels == BOX_TOP_LEFT).any(dim=1)
    losses: list[Tensor] = []
    log: list[dict[str, float | None]] = []
    seen: list[Tensor] = []
    for i, new_click in enumerate([False, *plan]):
        positive = None
        if new_click:
            assert previous is not None
            clicks = corrective_clicks(previous.detach()[:, 0], solid, side, draws.pixels[:, i])
            prompts = prompts.with_clicks(*clicks)
            positive = clicks[1].float().mean().item()
        logits, iou = decode_prompts(sam, embedding, prompts.coords_xy, prompts.labels, previous, side, i == 0, text)
        logits, iou = logits.float(), iou.float()
        result = round_loss(logits, iou, target, weights)
        if on_loss:
            on_loss(result.total / (len(plan) + 1))
        losses.append(result.total.detach() if on_loss else result.total)
        log.append(
            {
                "loss": result.total.item(),
                "mask": result.mask.item(),
                "best_iou": result.best_iou.mean().item(),
                "point_iou": _mean(result.best_iou[~boxed]) if text is None else None,
                "box_iou": _mean(result.best_iou[boxed]),
                "chosen_iou": result.true_iou.gather(1, iou.argmax(1, keepdim=True)).mean().item(),
                "positive_clicks": positive,
            }
        )
        best = iou.argmax(dim=1)  # hand-over by predicted IoU, unlike the loss
        previous = logits[torch.arange(len(best)), best].unsqueeze(1)
        previous = previous if through_time else previous.detach()
        seen.append(previous.detach()[0, 0] > 0)
    if distil and plan:
        assert previous is not None
        again, iou = decode_prompts(sam, embedding, first.coords_xy, first.labels, None, side, True, text)
        lesson = round_loss(again.float(), iou.float(), previous.detach()[:, 0].sigmoid(), weights).mask
        if on_loss:
            on_loss(distil * lesson / (len(plan) + 1))
        losses.append(distil * lesson.detach() if on_loss else distil * lesson)
    shown = Shown(solid[0], seen, Prompts(prompts.coords_xy[:1], prompts.labels[:1]))
    return RoundsResult(torch.stack(losses).sum() / (len(plan) + 1), log, shown, len(boxed), int(boxed.sum()))


def merged(parts: Sequence[RoundsResult]) -> list[dict[str, float | None]]:
    """The scalars of every round over all masks of several results of one plan."""
    counts = [
        {"point_iou": part.num_masks - part.num_boxed, "box_iou": part.num_boxed, "": part.num_masks} for part in parts
    ]
    merged_rounds = []
    for entries in zip(*(part.per_round for part in parts), strict=True):
        merged_round: dict[str, float | None] = {}
        for key in entries[0]:
            values = [(entry[key], n.get(key, n[""])) for entry, n in zip(entries, counts, strict=True)]
            known = [(value, n) for value, n in values if value is not None]
            merged_round[key] = sum(v * n for v, n in known) / sum(n for _, n in known) if known else None
        merged_rounds.append(merged_round)
    return merged_rounds


def _mean(values: Tensor) -> float | None:
    """Mean, or None of nothing."""
    return values.mean().item() if len(values) else None


def decode_prompts(
    sam: Sam,
    embedding: Tensor,
    coords_xy: Tensor,
    labels: Tensor,
    previous: Tensor | None,
    side: int,
    multimask: bool,
    text: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode token prompts on an embedding of any number of cells; coordinates in an S×S frame. text: (P, D)."""
    if torch.is_autocast_enabled(embedding.device.type):  # the wide maps in one type, or every sum converts
        embedding = embedding.to(torch.get_autocast_dtype(embedding.device.type))
    encoder = sam.prompt_encoder
    h, w = embedding.shape[-2:]
    scale = encoder.input_image_size[0] / side  # the model's own frame, whatever the view's size
    sparse = encoder.embed_tokens((coords_xy + 0.5) * scale - 0.5, labels)
    if text is not None:
        sparse = torch.cat([encoder.embed_text(text), sparse], dim=1)
    image = sam.mask_decoder.prepare(embedding, encoder.get_dense_pe((h, w)), encoder.embed_no_mask())
    if previous is not None:
        image = replace(image, masks=encoder.mask_part(previous, image.keys.dtype))
    return sam.mask_decoder.decode(image, (h, w), sparse, multimask)
