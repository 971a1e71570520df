"""The exponentially averaged weights of a run: what is evaluated and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """float32 copies of a module's state, sharded as its parameters are."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.state: dict[str, Tensor] = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights as they are after `step` steps; the first steps weigh more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in self.module.state_dict().items():
            self.state[key].lerp_(value.float(), 1 - decay)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the averages."""
        self.state = dict(state)
