"""The low-rank image side gives the numbers of the plain one, whatever the depth, the prompts and the shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.model.mask_decoder import MaskDecoder
from anymask.model.transformer import ImageTokens, TwoWayTransformer

WIDTH = 32


def decoder_of(depth: int, seed: int) -> MaskDecoder:
    """Random weights, of the norms and biases too."""
    torch.manual_seed(seed)
    transformer = TwoWayTransformer(depth=depth, embedding_dim=WIDTH, num_heads=4, mlp_dim=48)
    made = MaskDecoder(transformer_dim=WIDTH, transformer=transformer).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for norm in (m for m in made.modules() if "Norm" in type(m).__name__):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    return made


def image_of(decoder: MaskDecoder, size_hw: tuple[int, int]) -> ImageTokens:
    """Cells of unlike lengths around a mean that is not zero."""
    embedding = torch.randn(1, WIDTH, *size_hw) * torch.rand(1, 1, *size_hw) * 3 + 1
    return decoder.prepare(embedding, torch.randn(1, WIDTH, *size_hw), torch.randn(1, WIDTH, 1, 1))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), st.tuples(*[st.integers(1, 9)] * 2), st.booleans()
)
@torch.no_grad()
def test_same_as_the_plain_image_side(depth: int, p: int, n: int, size_hw: tuple[int, int], multimask: bool) -> None:
    decoder = decoder_of(depth, 7 * depth + n)
    image, sparse = image_of(decoder, size_hw), torch.randn(p, n, WIDTH)
    plain, plain_iou = decoder.decode(image, size_hw, sparse, multimask)
    masks, iou = decoder.decode(decoder.low_rank(image), size_hw, sparse, multimask)
    torch.testing.assert_close(iou, plain_iou, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masks, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@torch.no_grad()
def test_the_plain_sides_agree_with_gradients_on() -> None:
    """Prompt by prompt, with norms of cells that have no mean, against all prompts in one tensor."""
    decoder = decoder_of(2, 3)
    image, sparse = image_of(decoder, (8, 6)), torch.randn(3, 2, WIDTH)
    masks, _ = decoder.decode(decoder.low_rank(image), (8, 6), sparse, True)
    with torch.enable_grad():
        batch, _ = decoder.decode(image, (8, 6), sparse, True)
    torch.testing.assert_close(masks, batch.detach(), rtol=1e-4, atol=1e-4 * float(batch.abs().max()))


@pytest.mark.parametrize("inside_hw", [(5, 6), (8, 4), (3, 2)])
@torch.no_grad()
def test_only_what_is_asked_for(inside_hw: tuple[int, int]) -> None:
    decoder = decoder_of(2, 1)
    image, sparse = image_of(decoder, (8, 6)), torch.randn(6, 2, WIDTH)
    whole, iou = decoder.decode(decoder.low_rank(image), (8, 6), sparse, True)
    least = float(iou.max(dim=1).values.median())
    some, _ = decoder.decode(decoder.low_rank(image), (8, 6), sparse, True, least, inside_hw)
    rows, columns = 4 * inside_hw[0], 4 * inside_hw[1]
    wanted = (iou > least).any(dim=1)
    assert 0 < wanted.sum() < len(wanted)
    torch.testing.assert_close(some[wanted, :, :rows, :columns], whole[wanted, :, :rows, :columns])
    assert not some[~wanted, :, :rows, :columns].any()
    assert (some[:, :, rows:] < -50).all() and (some[..., columns:] < -50).all()


@torch.no_grad()
def test_in_bf16_as_near_to_float32_as_the_plain_side() -> None:
    decoder = decoder_of(2, 5)
    image, sparse = image_of(decoder, (16, 16)), torch.randn(8, 2, WIDTH)
    exact, _ = decoder.decode(image, (16, 16), sparse, True)
    decoder.to(torch.bfloat16)
    shared = type(image.shared)(*(getattr(image.shared, name).bfloat16() for name in vars(image.shared)))
    half = ImageTokens(image.keys.bfloat16(), image.pe.bfloat16(), shared)
    errors = []
    for side in (half, decoder.low_rank(half)):
        masks, _ = decoder.decode(side, (16, 16), sparse.bfloat16(), True)
        errors.append(float((masks.float() - exact).norm() / exact.norm()))
    assert errors[1] < 1.5 * errors[0] < 0.3, errors
