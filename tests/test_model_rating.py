"""Predicted IoU of lite: the head and the mask's stability; the official models know nothing of it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anymask.model.presets import sam_around
from anymask.model.rating import SHIFT, SLOPE, least_head, rated
from anymask.model.sam import Sam


def test_head_and_stability_count_alike() -> None:
    firm, soft = torch.full((4, 4), -9.0), torch.full((4, 4), -9.0)
    firm[:2] = 9
    soft[:2], soft[0, 0] = 0.5, 9  # one pixel of eight is certain
    iou = rated(torch.stack([firm, soft])[None], torch.tensor([[0.5, 0.5]]))
    assert iou[0].tolist() == pytest.approx([SHIFT + SLOPE * 1.5, SHIFT + SLOPE * (0.5 + 1 / 8)])
    nothing = rated(torch.full((1, 1, 4, 4), -9.0), torch.tensor([[0.5]]))
    assert nothing.item() == pytest.approx(SHIFT + SLOPE * 0.5)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_what_the_least_head_refuses_could_not_have_passed(least: float, head: float, seed: int) -> None:
    logits = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 3
    if head < least_head(least) - 1e-6:
        assert rated(logits, torch.tensor([[head]])).item() < least + 1e-6


def test_lite_has_it_and_no_model_of_the_paper(lite_random: Sam) -> None:
    assert lite_random.mask_decoder.rates_stability
    assert not sam_around(lite_random.image_encoder).mask_decoder.rates_stability


@torch.no_grad()
def test_an_answer_holds_the_rating_of_its_own_masks(lite_random: Sam) -> None:
    rating, plain = deepcopy(lite_random), deepcopy(lite_random)
    plain.mask_decoder.rates_stability = False
    side = rating.image_encoder.img_size
    embedding = rating.image_encoder(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
    points = torch.tensor([[[9.0, 20.0]], [[30.0, 11.0]]]), torch.ones(2, 1)
    (masks, iou), (same, head) = (sam.decode(embedding, points, None, None, True) for sam in (rating, plain))
    torch.testing.assert_close(masks, same)
    torch.testing.assert_close(iou, rated(masks, head))
    assert not torch.allclose(iou, head)
