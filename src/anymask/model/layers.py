"""Small modules and helpers shared by the encoders and the decoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_traced() -> bool:
    """Is a graph being made, by compiling or tracing?"""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def computes_on_cpu(x: Tensor) -> bool:
    """Is this CPU arithmetic as it comes, with or without gradients?"""
    return x.device.type == "cpu" and not is_traced()


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Is this plain inference on a CPU? Then loops over prompts, shared buffers and OpenCV are allowed."""
    return computes_on_cpu(x) and not torch.is_grad_enabled()


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a (B, C, H, W) map at each pixel; biased variance."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel with itself. Trains in float32 on a CPU, whatever autocast says: the backward pass
    in bf16 takes four to ten times as long there.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them (the decoder's heads)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them (transformer blocks)."""

    def __init__(self, dim: int, hidden_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability `rate` while training."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)


def in_one_order(logits: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (M, h·w·2·2·2·2), a cell's (y, x, y, x), and a picture (M, 4h, 4w) of them, as views in one order.

    Two neighbours in a row are one number of the views, of any type: copying them takes a fifth of the time.
    """
    pair = {2: torch.int32, 4: torch.int64, 8: torch.complex128}[picture.element_size()]
    m, height, width = picture.shape
    cells = logits.view(pair).view(m, height // 4, width // 4, 2, 2, 2)
    return cells.permute(0, 1, 3, 5, 2, 4), picture.view(pair).view(m, height // 4, 2, 2, width // 4, 2)
