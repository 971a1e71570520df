"""A batch's masks dealt out to the threads of a CPU: each does whole rounds, forward and backward, by itself.

Steps of a few prompts gain little from more threads; whole rounds do. Each thread runs on a copy of the prompt encoder
and decoder that shares the weights and has gradients of its own. They are added up in the order of the threads, so the
sums do not depend on which thread was faster.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

import torch
from torch import nn

from anymask.model.sam import Sam

MOST = 16  # masks


@dataclass(frozen=True)
class Part:
    """Some of the masks of one photo of a batch."""

    photo: int
    masks: slice


def dealt(num_masks: Sequence[int], num_threads: int) -> list[list[Part]]:
    """For each thread its parts of a batch whose photos have so many masks; as few cuts as leave no thread idle.

    Several threads get no more than `MOST` masks at a time: more take memory and no less time.
    """
    cuts = num_threads // gcd(len(num_masks), num_threads)
    parts = []
    for photo, count in enumerate(num_masks):
        pieces = cuts * max(1, -(-count // (cuts * MOST))) if num_threads > 1 else 1
        edges = [count * i // pieces for i in range(pieces + 1)]
        parts += [Part(photo, slice(a, b)) for a, b in pairwise(edges) if a < b]
    return [mine for i in range(num_threads) if (mine := parts[i::num_threads])]


def can_be_dealt(sam: Sam) -> bool:
    """Is this training on a CPU with several threads, and nothing drawn while the decoder runs?"""
    weight = sam.mask_decoder.iou_token.weight
    drawn = any(isinstance(m, nn.Dropout) and m.p > 0 for m in sam.mask_decoder.modules())
    return weight.device.type == "cpu" and torch.get_num_threads() > 1 and not drawn


class Replicas:
    """Copies of a Sam for so many threads, that share its weights and not its gradients."""

    def __init__(self, sam: Sam, num_threads: int) -> None:
        self.sam = sam
        self.copies = [_replica(sam) for _ in range(num_threads)]

    def fit(self, num_threads: int) -> bool:
        """Are there as many, and are the weights still where they were?"""
        return len(self.copies) == num_threads and all(
            a.data_ptr() == b.data_ptr() and a.requires_grad == b.requires_grad
            for each in self.copies
            for a, b in zip(_learned(self.sam), _learned(each), strict=True)
        )

    def add_gradients(self) -> None:
        """Move the gradients of the copies to the model."""
        for parameter, *others in zip(_learned(self.sam), *map(_learned, self.copies), strict=True):
            for other in others:
                if other.grad is not None:
                    parameter.grad = other.grad if parameter.grad is None else parameter.grad.add_(other.grad)
                    other.grad = None


def _learned(sam: Sam) -> list[nn.Parameter]:
    return [*sam.prompt_encoder.parameters(), *sam.mask_decoder.parameters()]


def _replica(sam: Sam) -> Sam:
    shared = {id(sam.image_encoder): sam.image_encoder}
    shared |= {id(b): b for part in (sam.prompt_encoder, sam.mask_decoder) for b in part.buffers()}
    shared |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in _learned(sam)}
    return copy.deepcopy(sam, shared)
