"""A dense auxiliary loss for small encoders: which cells belong with a clicked cell?

The paper trains its encoder through the mask decoder alone, after MAE pretraining on large machines. A decoder round
costs more than a small encoder, so few masks are seen per photo and hour. This head asks the same question of the
embedding directly: for a cell inside a mask, three learned affinities to all cells, the least wrong of them
supervised as in the paper's ambiguity rule. It costs one thin product per mask, is used only while training, and is
not part of the shipped model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.train.losses import dice_loss


class AffinityHead(nn.Module):
    """Embedding (B, C, h, w) and masks (B, M, H, W) to a loss."""

    def __init__(self, channels: int = 256, width: int = 64, answers: int = 3) -> None:
        super().__init__()
        self.answers = answers
        self.key = nn.Conv2d(channels, width, 1)
        self.query = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, answers * (width + 1))
        )

    def forward(self, embedding: Tensor, masks: Tensor) -> Tensor:
        b, c, h, w = embedding.shape
        target = F.interpolate(masks.float(), size=(h, w), mode="area")  # (B, M, h, w)
        m = target.shape[1]
        at = torch.multinomial((target.flatten(2) ** 2 + 1e-9).flatten(0, 1), 1).reshape(b, m, 1)
        clicked = embedding.flatten(2).transpose(1, 2).gather(1, at.expand(-1, -1, c))  # (B, M, C)
        query = self.query(clicked).reshape(b, m * self.answers, -1)
        keys = self.key(embedding).flatten(2)  # (B, width, h·w)
        logits = query[..., :-1] @ keys * keys.shape[1] ** -0.5 + query[..., -1:]
        logits = logits.reshape(b, m, self.answers, h, w).float()
        goal = target.unsqueeze(2).expand_as(logits)
        bce = F.binary_cross_entropy_with_logits(logits, goal, reduction="none").mean(dim=(-2, -1))
        loss = bce + dice_loss(logits, goal)
        return 0.8 * loss.min(dim=2).values.mean() + 0.2 * loss.mean()
