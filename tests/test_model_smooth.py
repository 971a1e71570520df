"""The low-pass of lite's logits: no checkerboard, the same numbers by OpenCV and torch, no trace in SAM."""

from __future__ import annotations

import pytest
import torch

from anymask import build_sam
from anymask.model.presets import sam_around
from anymask.model.smooth import KERNEL, smooth_logits


@pytest.mark.parametrize("period", [2, 4])
def test_what_every_cell_adds_alike_becomes_even(period: int) -> None:
    tile = torch.randn(period, period, generator=torch.Generator().manual_seed(period))
    pattern = tile.repeat(32 // period, 32 // period)
    inner = smooth_logits(pattern[None, None])[0, 0, 4:-4, 4:-4]
    assert torch.allclose(inner, pattern.mean().expand_as(inner), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opencv_and_torch_agree(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 2, 17, 23, generator=torch.Generator().manual_seed(0)).to(dtype)
    with_gradients = smooth_logits(logits.clone().requires_grad_()).detach()
    by_convolution = smooth_logits(logits)  # as an export sees it
    with torch.no_grad():
        plain = smooth_logits(logits)
    assert plain.dtype == with_gradients.dtype == torch.float32
    torch.testing.assert_close(plain, with_gradients, rtol=0, atol=2e-6)
    torch.testing.assert_close(plain, by_convolution, rtol=0, atol=2e-6)


@pytest.mark.parametrize("hw", [(17, 23), (1, 3), (2, 2), (4, 1)])
def test_the_gradient_is_that_of_the_filter(hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, *hw, generator=generator).requires_grad_()
    weight = torch.randn(2, 3, *hw, generator=generator)
    (smooth_logits(logits) * weight).sum().backward()
    kernel = torch.tensor(KERNEL)
    padded = torch.nn.functional.pad(plain := logits.detach().clone().requires_grad_(), (2, 2, 2, 2), mode="replicate")
    filtered = sum(
        kernel[i] * kernel[j] * padded[..., i : i + hw[0], j : j + hw[1]] for i in range(5) for j in range(5)
    )
    (filtered * weight).sum().backward()
    torch.testing.assert_close(logits.grad, plain.grad, atol=1e-5, rtol=1e-5)


def test_even_logits_stay_and_gradients_flow() -> None:
    logits = torch.full((1, 1, 8, 8), 3.0, requires_grad=True)
    out = smooth_logits(logits)
    assert torch.allclose(out, logits)
    out.sum().backward()
    assert logits.grad is not None and torch.allclose(logits.grad.sum(), torch.tensor(64.0))


def test_only_lite_is_smoothed() -> None:
    assert build_sam("lite").mask_decoder.smooth
    assert not sam_around(build_sam("lite").image_encoder).mask_decoder.smooth
