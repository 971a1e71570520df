"""The two-way transformer of the mask decoder (PAPER §2.4), arranged so that little work is done per prompt.

Few tokens (T ≈ 7) meet many image cells (L = 4096). Two facts carry the speed:

- Before the first image update all prompts of an image see the same image tokens. They are kept once
  (`G` = 1 below), their projections are computed once per image (`prepare`), and only that update makes them
  one per prompt (`G` = P).
- A key projection need not be applied to 4096 cells: (W_k c)·q = c·(W_kᵀ q), and a key bias adds the same number to
  every logit of a query, which softmax ignores. Moving W_k, W_v, W_q and W_o from the cell side to the token
  side turns two 256×128 products per cell into thin ones.

Shapes: P prompts, T tokens, L = h·w cells, C width, H heads, D head width, G ∈ {1, P}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.cells import Cells, MaskPart, attended_with_masks, cells_of, first_update
from anymask.model.layers import MLPBlock


@dataclass(frozen=True)
class SharedProjections:
    """One image's cells as the first layer sees them, (1, H, L, D) each; `queries` are scaled already."""

    token_keys: Tensor
    token_values: Tensor
    queries: Tensor


@dataclass(frozen=True)
class ImageTokens:
    """The image side before the first layer.

    keys: (G, L, C) image + dense prompt embedding. pe: (1, L, C) positional code of the cells.
    shared: where G = 1, the projections that the first layer needs of it. masks: where G = 1, what the prompts' masks
    add to the keys.
    """

    keys: Tensor
    pe: Tensor
    shared: SharedProjections | None
    masks: MaskPart | None = None


class Attention(nn.Module):
    """Multi-head attention whose inner width is `embedding_dim / downsample_rate`."""

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.internal_dim = embedding_dim // downsample_rate
        self.num_heads = num_heads
        if self.internal_dim % num_heads:
            raise ValueError(f"{self.internal_dim} channels do not split into {num_heads} heads.")
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.v_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)

    @property
    def scale(self) -> float:
        """1 / sqrt(head width)."""
        return float((self.internal_dim // self.num_heads) ** -0.5)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, N, H·D) to (B, H, N, D)."""
        b, n, c = x.shape
        return x.reshape(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)

    def merge_heads(self, x: Tensor) -> Tensor:
        """(B, H, N, D) to (B, N, H·D)."""
        b, h, n, d = x.shape
        return x.transpose(1, 2).reshape(b, n, h * d)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Plain attention of (B, N, C) on (B, M, C)."""
        q, k, v = (
            self.split_heads(p(x))
            for p, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(self.merge_heads(F.scaled_dot_product_attention(q, k, v)))

    def head_weight(self, linear: nn.Linear) -> Tensor:
        """Weight (H·D, C) of an input projection as (H, D, C)."""
        return linear.weight.reshape(self.num_heads, -1, linear.weight.shape[1])

    def tokens_on_shared_image(
        self, q: Tensor, keys: Tensor, values: Tensor, masks: MaskPart | None = None
    ) -> Tensor:
        """Tokens (P, T, C) attend to one image's projected cells (1, H, L, D), and what masks add: (P, T, C)."""
        p, t, c = q.shape
        if masks is not None:
            q = (self.split_heads(self.q_proj(q)) * self.scale).contiguous()  # (P, H, T, D)
            thin = self._against_rows(q, self.k_proj, masks)
            out, shares = attended_with_masks(q, keys, values, thin, masks.w)
            rows = self.split_heads(F.linear(masks.rows, self.v_proj.weight).unsqueeze(0))  # (1, H, R, D)
            out = out + shares.reshape(p, self.num_heads, t, -1) @ rows
            return cast(Tensor, self.out_proj(self.merge_heads(out)))
        q = self.split_heads(self.q_proj(q).reshape(1, p * t, -1))  # (1, H, P·T, D)
        out = self.merge_heads(F.scaled_dot_product_attention(q, keys, values))
        return self.out_proj(out).reshape(p, t, c)

    def tokens_on_cells(self, q: Tensor, cells: Cells) -> Tensor:
        """Tokens (P, T, C) attend to each prompt's cells, with the projections moved to the token side: (P, T, C)."""
        p, t, c = q.shape
        q = self.split_heads(self.q_proj(q)) * self.scale  # (P, H, T, D)
        out = cells.attended((q @ self.head_weight(self.k_proj)).reshape(p, -1, c))  # (P, H·T, C)
        out = out.reshape(p, self.num_heads, t, c) @ self.head_weight(self.v_proj).transpose(1, 2)  # (P, H, T, D)
        return self.out_proj(self.merge_heads(out) + self.v_proj.bias)

    def shared_image_on_tokens(self, image: ImageTokens, k: Tensor, v: Tensor, norm: nn.LayerNorm) -> Cells:
        """One image's cells, and what masks add to them, attend to each prompt's tokens. k, v: (P, T, C)."""
        assert image.shared is not None
        k, v, masks = self.split_heads(self.k_proj(k)), self._moved_values(v), image.masks
        thin = None if masks is None else self._against_rows(k * self.scale, self.q_proj, masks)
        return first_update(image.keys, image.shared.queries, image.pe, k, v, norm, thin, masks)

    def cells_on_tokens(self, cells: Cells, k: Tensor, v: Tensor, norm: nn.LayerNorm) -> Cells:
        """Each prompt's cells attend to its tokens, with the projections moved to the token side. k, v: (P, T, C)."""
        p, _, c = k.shape
        k = self.split_heads(self.k_proj(k)) * self.scale  # (P, H, T, D)
        bias = (k @ self.q_proj.bias.reshape(self.num_heads, -1, 1)).reshape(p, -1, 1)  # (P, H·T, 1)
        k = (k @ self.head_weight(self.q_proj)).reshape(p, -1, c)  # (P, H·T, C)
        return cells.updated(k, bias, self._moved_values(v), self.num_heads, norm)

    def _against_rows(self, x: Tensor, linear: nn.Linear, masks: MaskPart) -> Tensor:
        """Heads x (P, H, T, D) of tokens, against the rows of masks through a projection of the cells: (P, H·T, R)."""
        return (x @ self.head_weight(linear)).flatten(1, 2) @ masks.rows.t()

    def _moved_values(self, v: Tensor) -> Tensor:
        """Values and output projection of every head in one: (P, T, C) to (P, H·T, C)."""
        p, _, c = v.shape
        v = self.split_heads(self.v_proj(v))  # (P, H, T, D)
        out_weight = self.out_proj.weight.t().reshape(self.num_heads, -1, c)  # (H, D, C)
        # every head's weights over the tokens add up to one, so its share of the bias can ride on the values
        return (v @ out_weight + self.out_proj.bias / self.num_heads).reshape(p, -1, c)


class TwoWayAttentionBlock(nn.Module):
    """Self-attention, tokens → image, MLP, image → tokens; post-norm."""

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(
            embedding_dim, num_heads, attention_downsample_rate
        )
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(
            embedding_dim, num_heads, attention_downsample_rate
        )
        self.skip_first_layer_pe = skip_first_layer_pe
        self.dropout = nn.Dropout(dropout)

    def update_tokens(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """Self-attention of the tokens; the first layer has neither positional code nor residual (PAPER §2.4)."""
        if self.skip_first_layer_pe:
            return self.norm1(self.dropout(self.self_attn(tokens, tokens, tokens)))
        q = tokens + token_pe
        return self.norm1(tokens + self.dropout(self.self_attn(q, q, tokens)))

    def finish_tokens(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Residual, norm and MLP after tokens → image."""
        tokens = self.norm2(tokens + self.dropout(attended))
        return self.norm3(tokens + self.dropout(self.mlp(tokens)))


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last attention of the tokens on the image.

    Dropout (0.1 in the paper's training, absent from the official inference code) acts on the output of every
    token-side attention and MLP, and has no parameters.
    """

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        attention_downsample_rate: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, attention_downsample_rate, i == 0, dropout
            )
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(
            embedding_dim, num_heads, attention_downsample_rate
        )
        self.norm_final_attn = nn.LayerNorm(embedding_dim)
        self.dropout = nn.Dropout(dropout)

    def prepare(self, keys: Tensor, pe: Tensor) -> ImageTokens:
        """What the first layer needs of the image side, once per image.

        keys: (G, L, C) image + dense prompt embedding; pe: (1, L, C).
        """
        if keys.shape[0] > 1:
            return ImageTokens(keys, pe, None)
        first = self.layers[0]
        assert isinstance(first, TwoWayAttentionBlock)
        to_image, to_token = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        keys_pe = keys + pe
        shared = SharedProjections(
            to_image.split_heads(to_image.k_proj(keys_pe)),
            to_image.split_heads(to_image.v_proj(keys)),
            to_token.split_heads(to_token.q_proj(keys_pe) * to_token.scale).contiguous(),
        )
        return ImageTokens(keys, pe, shared)

    def forward(self, image: ImageTokens, point_embedding: Tensor, chosen: slice) -> tuple[Tensor, Cells]:
        """Tokens (P, 1 + M, C) and image cells after all layers; `image` of G = 1 or G = P.

        point_embedding: (P, T, C). chosen: the M tokens, counted from the second, that are wanted besides the first;
        the others skip the last attention.
        """
        tokens, token_pe = point_embedding, point_embedding
        shared = image.shared
        cells = cells_of(image.keys, image.pe) if shared is None else None
        for layer in self.layers:
            assert isinstance(layer, TwoWayAttentionBlock)
            tokens = layer.update_tokens(tokens, token_pe)
            to_image, to_token, norm = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token, layer.norm4
            q = tokens + token_pe
            if cells is not None:
                tokens = layer.finish_tokens(tokens, to_image.tokens_on_cells(q, cells))
                cells = to_token.cells_on_tokens(cells, tokens + token_pe, tokens, norm)
            else:
                assert shared is not None
                attended = to_image.tokens_on_shared_image(q, shared.token_keys, shared.token_values, image.masks)
                tokens = layer.finish_tokens(tokens, attended)
                cells = to_token.shared_image_on_tokens(image, tokens + token_pe, tokens, norm)
        assert cells is not None
        last = cells
        return self.last_tokens(tokens, token_pe, chosen, lambda attention, q: attention.tokens_on_cells(q, last)), last

    def last_tokens(
        self, tokens: Tensor, token_pe: Tensor, chosen: slice, attend: Callable[[Attention, Tensor], Tensor]
    ) -> Tensor:
        """The last attention of the wanted tokens on the cells, by `attend`: (P, 1 + M, C)."""
        wanted = [0, *range(1 + chosen.start, 1 + chosen.stop)]
        q, tokens = (tokens + token_pe)[:, wanted], tokens[:, wanted]
        attended = attend(self.final_attn_token_to_image, q)
        return cast(Tensor, self.norm_final_attn(tokens + self.dropout(attended)))
