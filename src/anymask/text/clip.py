"""CLIP by `open_clip`: phrases, and objects of a photo, in one space (PAPER §7.6).

The weights are the user's: a folder with `open_clip_config.json` and a weights file, as CLIP models are published for
`open_clip`. Nothing is downloaded here. The paper took ViT-L/14 at 336 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.core.errors import CheckpointError, InputError, MissingExtraError

EXTRA = "CLIP needs open_clip: pip install 'anymask[clip]'"
AT_ONCE = 16  # pictures in a batch


class ClipEmbedder:
    """A frozen CLIP. enlarge: how much wider than its box the square around an object is; the paper's training draws
    it from 1 … 2 (D.5), 1.5 is the middle. width: D of the space. Raises CheckpointError for a folder without a CLIP.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", enlarge: float = 1.5) -> None:
        try:
            import open_clip
        except ImportError as error:
            raise MissingExtraError(EXTRA) from error
        folder = Path(folder)
        if not (folder / "open_clip_config.json").is_file():
            raise CheckpointError(
                f"{folder} has no open_clip_config.json; expected a folder as open_clip's models are published: that "
                "file beside open_clip_model.safetensors."
            )
        name = f"local-dir:{folder}"
        try:
            model = open_clip.create_model(name, device=device, require_pretrained=True)
            self._tokenizer = open_clip.get_tokenizer(name)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise CheckpointError(f"{folder} cannot be read as a CLIP of open_clip: {error}") from error
        if type(model.visual).__name__ != "VisionTransformer" or model.visual.attn_pool is not None:
            raise CheckpointError(
                f"{folder}: the picture side must be a plain ViT with a class token, as in the paper."
            )
        self.model: Any = model.eval().requires_grad_(False)
        self.enlarge = enlarge
        self.width = int(model.visual.output_dim)
        self.side = int(model.visual.image_size[0])
        like = next(model.parameters())
        self._mean = torch.tensor(model.visual.image_mean, device=like.device)[:, None, None]
        self._std = torch.tensor(model.visual.image_std, device=like.device)[:, None, None]

    @torch.no_grad()
    def texts(self, phrases: Sequence[str]) -> np.ndarray:
        """Phrases to (N, D) float32 of length 1. Raises InputError for an empty phrase."""
        if any(not phrase.strip() for phrase in phrases):
            raise InputError("an empty phrase names nothing; say what to look for, such as 'a wheel'.")
        tokens = self._tokenizer([p.strip() for p in phrases]).to(self._mean.device)
        return np.asarray(self.model.encode_text(tokens, normalize=True).float().cpu().numpy())

    def similarities(self, image: np.ndarray, masks: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """(phrases, masks) float32: cosines."""
        return np.asarray(self.texts(phrases) @ self.objects(image, masks).T)

    def objects(self, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Masks (M, H, W) bool of a photo (H, W, 3) uint8 to (M, D) float32 of length 1: each with its surroundings,
        seen through attention to the mask alone.
        """
        if not len(masks):
            return np.zeros((0, self.width), np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
        seen = torch.zeros(len(masks), dtype=torch.bool)
        factors = torch.full((len(masks),), self.enlarge)
        return np.asarray(self.embed(pixels, torch.from_numpy(masks), factors, seen).float().cpu().numpy())

    def to(self, device: str | torch.device) -> ClipEmbedder:
        """Move there; itself."""
        if self._mean.device != torch.device(device):
            self.model, self._mean, self._std = self.model.to(device), self._mean.to(device), self._std.to(device)
        return self

    def training_prompts(self, image: Tensor, masks: Tensor) -> Tensor:
        """Prompts (M, D) of a training view (3, H, W) on the 0..255 scale, NaN outside the photo, and its masks (M,
        H, W): squares enlarged by 1 … 2 at random, the pixels outside the mask zeroed for every second one (D.5).
        """
        factors = 1 + torch.rand(len(masks), device=masks.device)
        return self.embed(
            torch.nan_to_num(image), masks > 0, factors, torch.rand(len(masks), device=masks.device) < 0.5
        )

    @torch.no_grad()
    def embed(self, image: Tensor, masks: Tensor, factors: Tensor, alone: Tensor) -> Tensor:
        """Masks (M, H, W) bool of a photo (3, H, W), 0..255, to (M, D) of length 1. factors: (M) how much wider than
        the box the square is. alone: (M) bool, pixels outside the mask zeroed.
        """
        parts = []
        for start in range(0, len(masks), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            crops = [square(image, m, float(f), bool(a), self.side) for m, f, a in
                     zip(masks[part], factors[part], alone[part])]  # fmt: skip
            pictures = torch.stack([picture for picture, _ in crops]).to(self._mean.device)
            inside = torch.stack([mask for _, mask in crops]).to(self._mean.device)
            parts.append(self._masked(pictures, inside))
        return F.normalize(torch.cat(parts), dim=1)

    def _masked(self, pictures: Tensor, inside: Tensor) -> Tensor:
        """Pictures (B, 3, S, S), 0..255, and share of the mask (B, S, S) to (B, D): in the last block the class token
        attends to itself and to patches with any of the mask.
        """
        tower = self.model.visual
        x = tower._embeds((pictures / 255 - self._mean) / self._std)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = block(x)
        cells = F.adaptive_max_pool2d(inside[:, None], tower.grid_size).flatten(1) > 0.5
        empty = ~cells.any(dim=1)
        cells[empty] = True  # nothing is left of the mask at this size
        heads, length = last.attn.num_heads, x.shape[1]
        forbidden = x.new_zeros(len(x), length, length)
        forbidden[:, 0, 1:].masked_fill_(~cells, float("-inf"))
        x = last(x, attn_mask=forbidden.repeat_interleave(heads, dim=0))
        pooled, _ = tower._pool(x)
        return pooled @ tower.proj if tower.proj is not None else pooled


def square(image: Tensor, mask: Tensor, factor: float, alone: bool, side: int) -> tuple[Tensor, Tensor]:
    """The square around a mask (H, W) bool, its box `factor` times as wide, of a photo (3, H, W): (3, side, side), zero
    beyond the photo, and the mask's share there (side, side) in 0 … 1. An empty mask takes the whole photo.
    """
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    height, width = mask.shape
    y0, y1 = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, height)
    x0, x1 = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, width)
    size = max(1, round(max(y1 - y0, x1 - x0) * factor))
    top, left = (y0 + y1 - size) // 2, (x0 + x1 - size) // 2
    both = torch.cat([image * mask if alone else image, mask[None].to(image.dtype)])
    part = both[:, max(0, top) : top + size, max(0, left) : left + size]
    above, before = max(0, -top), max(0, -left)
    part = F.pad(part, (before, size - before - part.shape[2], above, size - above - part.shape[1]))
    scaled = F.interpolate(part[None], size=(side, side), mode="bilinear", antialias=True)[0]
    return scaled[:3], scaled[3]
