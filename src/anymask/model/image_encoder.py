"""The paper's image encoder: a plain ViT with windowed and global attention (PAPER §2.2)."""

from __future__ import annotations

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.core.errors import ImageError
from anymask.core.processor import cpu_flags
from anymask.model.attention_gradients import attention_with_gradients
from anymask.model.layers import DropPath, LayerNorm2d, MLPBlock, computes_on_cpu
from anymask.model.tiled_attention import tiled_attention


class ImageEncoderViT(nn.Module):
    """(B, 3, S, S) normalised images to (B, out_chans, S/16, S/16) embeddings.

    The tables are made for `img_size`; another side that is a multiple of the patch size works as well, absolute
    and relative position tables are interpolated then.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        window_size: int = 14,
        global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11),
        drop_path_rate: float = 0.0,
        table_size: int = 1024,
    ) -> None:
        """table_size: the image side for which position tables are stored (1024 in the official files)."""
        super().__init__()
        if img_size % patch_size:
            raise ImageError(
                f"the model's image side must be a multiple of {patch_size}, got {img_size}."
            )
        self.img_size = img_size
        self.patch_size = patch_size
        cells = table_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, cells, cells, embed_dim))
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                window_size=0 if i in global_attn_indexes else window_size,
                table_cells=cells if i in global_attn_indexes else window_size,
                drop_path=rates[i],
            )
            for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dim, out_chans, kernel_size=1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
        self.gradient_checkpointing = False

    @property
    def stride(self) -> int:
        """Image pixels per embedding cell."""
        return self.patch_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.patch_size or x.shape[-2] % self.patch_size:
            raise ImageError(
                f"image sides must be multiples of {self.patch_size}, got {tuple(x.shape[-2:])}."
            )
        x = self.patch_embed(x.to(self.pos_embed.dtype))  # (B, h, w, C)
        x = x + resize_position_table(self.pos_embed, (x.shape[1], x.shape[2]))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class PatchEmbed(nn.Module):
    """Non-overlapping patches to (B, h, w, C)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm transformer block; `window_size` 0 means global attention."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        window_size: int,
        table_cells: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelPosAttention(dim, num_heads, table_cells)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio))
        self.window_size = window_size
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), self.window_size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class RelPosAttention(nn.Module):
    """Multi-head self-attention with decomposed relative position (PAPER §2.2)."""

    def __init__(self, dim: int, num_heads: int, table_cells: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        head_dim = dim // num_heads
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_cells - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_cells - 1, head_dim))

    def forward(self, x: Tensor, window_size: int) -> Tensor:
        """(B, h, w, C), already normalised, to the same shape."""
        b, h, w, c = x.shape
        qkv = self.qkv(x)  # (B, h, w, 3C); before the windows are cut, so that padding costs nothing here
        s0, s1 = (window_size, window_size) if window_size else (h, w)
        rel_h, rel_w = relative_rows(self.rel_pos_h, s0), relative_rows(self.rel_pos_w, s1)
        if torch.is_grad_enabled() and computes_on_cpu(qkv):
            heads = (3, self.num_heads, -1)
            qkv, padding = qkv.unflatten(-1, heads), self.qkv.bias.view(heads)
            return self.proj(attention_with_gradients(qkv, padding, rel_h, rel_w))
        if window_size:
            qkv = self._pad_with_bias(qkv, window_size)
            qkv = window_partition(qkv, window_size)  # (B·windows, s, s, 3C)
        n = qkv.shape[0]
        qkv = qkv.reshape(n, s0 * s1, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (N, heads, s·s, D)
        out = rel_pos_attention(q, k, v, rel_h, rel_w, (s0, s1))
        out = out.transpose(1, 2).reshape(n, s0, s1, c)
        if window_size:
            out = window_unpartition(out, window_size, (h, w))
        return self.proj(out)

    def _pad_with_bias(self, qkv: Tensor, window_size: int) -> Tensor:
        """Pad to whole windows. Padding is zero *before* the projection, hence the bias after it, and takes part."""
        b, h, w, c = qkv.shape
        pad_h, pad_w = -h % window_size, -w % window_size
        if not pad_h and not pad_w:
            return qkv
        bias = self.qkv.bias.to(qkv.dtype)  # joined, not written into: graphs of other runtimes scatter slowly
        wide = torch.cat([qkv, bias.expand(b, h, pad_w, c)], dim=2)
        return torch.cat([wide, bias.expand(b, pad_h, w + pad_w, c)], dim=1)


def window_partition(x: Tensor, size: int) -> Tensor:
    """(B, h, w, C), h and w multiples of size, to (B·windows, size, size, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(2, 3)
    return x.reshape(-1, size, size, c)


def window_unpartition(windows: Tensor, size: int, hw: tuple[int, int]) -> Tensor:
    """Inverse of `window_partition`, cropped to (h, w)."""
    h, w = hw
    rows, cols = -(-h // size), -(-w // size)
    x = windows.reshape(-1, rows, cols, size, size, windows.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], rows * size, cols * size, -1)[:, :h, :w]


def resize_position_table(table: Tensor, hw: tuple[int, int]) -> Tensor:
    """Absolute table (1, h0, w0, C) for an h×w grid; bicubic where the size differs."""
    if table.shape[1:3] == hw:
        return table
    resized = F.interpolate(
        table.permute(0, 3, 1, 2).float(), size=hw, mode="bicubic", antialias=True
    )
    return resized.permute(0, 2, 3, 1).to(table.dtype)


def relative_rows(table: Tensor, size: int) -> Tensor:
    """Rows of a relative table for every (query, key) of an axis: (size, size, D), [i, j] = table[i - j + size - 1].

    A table of another length than 2·size - 1 is linearly interpolated.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        resized = F.interpolate(table.t().unsqueeze(0).float(), size=length, mode="linear")
        table = resized.squeeze(0).t().to(table.dtype)
    at = torch.arange(size, device=table.device)
    return table[at[:, None] - at[None, :] + size - 1]


def rel_pos_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, hw: tuple[int, int]
) -> Tensor:
    """softmax(q·k/√D + q·Rh + q·Rw) v for an h×w grid; q, k, v (N, heads, h·w, D), no h·w × h·w bias is stored.

    rel_h: (h, h, D), rel_w: (w, w, D) from `relative_rows`.
    """
    h, w = hw
    grid = q.reshape(*q.shape[:2], h, w, -1)
    bias_h = torch.einsum("nayxd,yjd->nayxj", grid, rel_h).flatten(2, 3)  # (N, heads, h·w, h)
    bias_w = torch.einsum("nayxd,xjd->nayxj", grid, rel_w).flatten(2, 3)  # (N, heads, h·w, w)
    if computes_on_cpu(q) and not (q.dtype == torch.bfloat16 and "amx_bf16" in cpu_flags()):
        if h * w >= 1024:
            return tiled_attention(q, k, v, bias_h, bias_w)
        if q.dtype == torch.float32:
            return _whole_attention(q, k, v, bias_h, bias_w)
    if torch._C._get_tracing_state() is not None and "amx_bf16" not in cpu_flags():  # an OpenVINO graph, made for here
        return _plain_attention(q, k, v, bias_h, bias_w)
    return _folded_attention(q, k, v, bias_h, bias_w, hw)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """The score matrix in plain operations, at least in float32: where no matrix units are, the wider dot products of
    folding cost more.
    """
    h, w = bias_h.shape[-1], bias_w.shape[-1]
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).to(wide)
    bias = bias_h.to(wide)[..., :, None] + bias_w.to(wide)[..., None, :]
    return (scores + bias.reshape(*bias.shape[:3], h * w)).softmax(dim=-1).to(q.dtype) @ v


def _folded_attention(
    q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, hw: tuple[int, int]
) -> Tensor:
    """The bias as part of the dot product: append bias_h, bias_w to q and the one-hot row and column to k.

    bias[q, k] = bias_h[q, row(k)] + bias_w[q, col(k)], so one fused attention kernel does everything.
    """
    h, w = hw
    d = q.shape[-1]
    rows = torch.eye(h, device=q.device, dtype=q.dtype).repeat_interleave(w, dim=0)  # (h·w, h)
    cols = torch.eye(w, device=q.device, dtype=q.dtype).repeat(h, 1)  # (h·w, w)
    one_hot = torch.cat([rows, cols], dim=1).expand(*k.shape[:2], -1, -1)
    extra = -(d + h + w) % 8  # fused kernels like widths that are multiples of 8
    pad = [q.new_zeros(()).expand(*q.shape[:3], extra)] if extra else []
    q = torch.cat([q * d**-0.5, bias_h, bias_w, *pad], dim=-1)
    k = torch.cat([k, one_hot, *pad], dim=-1)
    v = F.pad(v, (0, q.shape[-1] - d))  # the CPU and flash kernels want equal widths
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :d]


def _whole_attention(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """The score matrix as it stands; windows are small enough for it."""
    n, heads, length, d = q.shape
    h, w = bias_h.shape[-1], bias_w.shape[-1]
    q, k, v = ((x.reshape(-1, length, d)) for x in (q * d**-0.5, k, v))
    scores = q @ k.transpose(1, 2)  # (N·heads, h·w, h·w)
    grid = scores.view(n, heads, length, h, w)
    grid += bias_h[..., :, None]
    grid += bias_w[..., None, :]
    torch.softmax(scores, dim=-1, out=scores)
    return (scores @ v).view(n, heads, length, d)
