"""Proves: same state dict, same numbers as `segment-anything` 1.0, for the encoder, every prompt kind, and whole calls.

Also: any image side that is a multiple of 16 works, gradients flow, and our two attention arrangements agree.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import segment_anything
import torch
from conftest import liven
from segment_anything.modeling import ImageEncoderViT as OfficialEncoder
from segment_anything.modeling import MaskDecoder as OfficialDecoder
from segment_anything.modeling import PromptEncoder as OfficialPromptEncoder
from segment_anything.modeling import Sam as OfficialSam
from segment_anything.modeling import TwoWayTransformer as OfficialTransformer

from anymask.core.errors import ImageError
from anymask.model.image_encoder import ImageEncoderViT, _folded_attention
from anymask.model.presets import VIT_SIZES, build_sam, sam_around
from anymask.model.sam import Sam
from anymask.model.tiled_attention import tiled_attention


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def official_encoder(name: str, side: int, depth: int, global_at: tuple[int, ...]) -> OfficialEncoder:
    size = VIT_SIZES[name]
    return OfficialEncoder(
        img_size=side,
        embed_dim=size.embed_dim,
        depth=depth,
        num_heads=size.num_heads,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        out_chans=256,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=list(global_at),
        window_size=14,
    ).eval()


def our_encoder(name: str, side: int, depth: int, global_at: tuple[int, ...]) -> ImageEncoderViT:
    size = VIT_SIZES[name]
    return ImageEncoderViT(
        side,
        embed_dim=size.embed_dim,
        depth=depth,
        num_heads=size.num_heads,
        global_attn_indexes=global_at,
        table_size=side,
    ).eval()


@pytest.fixture(scope="module")
def pair() -> tuple[Sam, OfficialSam]:
    """Whole models with a two-block ViT-B encoder at side 512: 32×32 cells, one window and one global block."""
    torch.manual_seed(0)
    official = OfficialSam(
        official_encoder("vit_b", 512, 2, (1,)),
        OfficialPromptEncoder(256, (32, 32), (512, 512), 16),
        OfficialDecoder(
            num_multimask_outputs=3,
            transformer=OfficialTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
        ),
    ).eval()
    liven(official)
    ours = sam_around(our_encoder("vit_b", 512, 2, (1,))).eval()
    ours.load_state_dict(official.state_dict())
    return ours, official


@pytest.mark.parametrize("name", ["vit_l", "vit_h"])
def test_encoder_at_reduced_depth(name: str) -> None:
    torch.manual_seed(1)
    theirs, ours = official_encoder(name, 512, 2, (1,)), our_encoder(name, 512, 2, (1,))
    liven(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-4


def test_vit_b_whole() -> None:
    torch.manual_seed(2)
    theirs = segment_anything.sam_model_registry["vit_b"]().eval()
    liven(theirs)
    ours = build_sam("vit_b")
    ours.load_state_dict(theirs.state_dict())
    image = torch.randint(0, 256, (3, 683, 1024)).float()
    record = {
        "image": image,
        "original_size": (427, 640),
        "point_coords": torch.tensor([[[400.0, 300.0]], [[900.0, 100.0]]]),
        "point_labels": torch.ones(2, 1),
    }
    (a,), (b,) = ours([record], True), theirs([record], True)
    assert relative_error(a["low_res_logits"], b["low_res_logits"]) < 1e-4
    assert relative_error(a["iou_predictions"], b["iou_predictions"]) < 1e-4
    assert (a["masks"] == b["masks"]).float().mean() >= 0.999


POINTS = (torch.tensor([[[100.0, 200.0]], [[400.0, 50.0]], [[0.0, 511.0]]]), torch.ones(3, 1))
MIXED = (
    torch.tensor([[[100.0, 200.0], [30.0, 30.0]], [[400.0, 50.0], [1.0, 1.0]], [[9.0, 9.0], [500.0, 2.0]]]),
    torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
)
PADDED = (MIXED[0], torch.tensor([[1.0, -1.0], [0.0, -1.0], [1.0, 0.0]]))
BOXES = torch.tensor([[10.0, 20.0, 300.0, 400.0], [0.0, 0.0, 511.0, 511.0], [100.0, 90.0, 110.0, 95.0]])
MASKS = 5 * torch.randn(3, 1, 128, 128, generator=torch.Generator().manual_seed(3))
PROMPTS = {
    "point": (POINTS, None, None),
    "points + and -": (MIXED, None, None),
    "padding point": (PADDED, None, None),
    "box": (None, BOXES, None),
    "box and points": (MIXED, BOXES, None),
    "mask": (None, None, MASKS),
    "mask and points": (POINTS, None, MASKS),
    "mask, box and points": (MIXED, BOXES, MASKS),
    "nothing": (None, None, None),
    "one box": (None, BOXES[:1], None),
    "one mask and point": ((POINTS[0][:1], POINTS[1][:1]), None, MASKS[:1]),
}


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", PROMPTS)
def test_every_prompt_kind(pair: tuple[Sam, OfficialSam], kind: str, multimask: bool) -> None:
    ours, theirs = pair
    points, boxes, masks = PROMPTS[kind]
    embedding = torch.randn(1, 256, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        sparse, dense = theirs.prompt_encoder(points, boxes, masks)
        low, iou = theirs.mask_decoder(
            embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense, multimask
        )
        our_low, our_iou = ours.decode(embedding, points, boxes, masks, multimask)
        prepared = ours.prepare(embedding)
        prepared_low, _ = ours.decode(embedding, points, boxes, masks, multimask, prepared)
        low_rank = ours.mask_decoder.low_rank(prepared)
        low_rank_low, _ = ours.decode(embedding, points, boxes, masks, multimask, low_rank)
    assert relative_error(our_low, low) < 1e-4
    assert relative_error(our_iou, iou) < 1e-4
    assert ((our_low > 0) == (low > 0)).float().mean() >= 0.999
    assert relative_error(prepared_low, low) < 1e-4
    assert relative_error(low_rank_low, low) < 1e-4


def test_prompt_tokens_equal(pair: tuple[Sam, OfficialSam]) -> None:
    ours, theirs = pair
    for points, boxes, masks in PROMPTS.values():
        for a, b in zip(
            ours.prompt_encoder(points, boxes, masks), theirs.prompt_encoder(points, boxes, masks)
        ):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_batched_forward(pair: tuple[Sam, OfficialSam]) -> None:
    ours, theirs = pair
    generator = torch.Generator().manual_seed(5)
    records = [
        {
            "image": torch.randint(0, 256, (3, 341, 512), generator=generator).float(),
            "original_size": (100, 150),
            "boxes": BOXES,
        },
        {
            "image": torch.randint(0, 256, (3, 512, 512), generator=generator).float(),
            "original_size": (512, 512),
            "point_coords": MIXED[0],
            "point_labels": MIXED[1],
            "mask_inputs": MASKS,
        },
    ]
    for a, b in zip(ours(records, False), theirs(records, False)):
        assert a.keys() == b.keys()
        assert a["masks"].shape == b["masks"].shape and a["masks"].dtype == torch.bool
        assert (a["masks"] == b["masks"]).float().mean() >= 0.999
        assert relative_error(a["iou_predictions"], b["iou_predictions"]) < 1e-4


@pytest.mark.parametrize("side", [16, 48, 224, 512])
def test_other_image_sides(side: int) -> None:
    encoder = ImageEncoderViT(side, embed_dim=64, depth=2, num_heads=4, global_attn_indexes=(1,)).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, side, side)).shape == (1, 256, side // 16, side // 16)


def test_a_side_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ImageError, match="multiple of 16, got 500"):
        ImageEncoderViT(500)
    with pytest.raises(ImageError, match="multiple of 32"):
        build_sam("lite", image_size=500)


def test_tiled_and_folded_attention_agree() -> None:
    generator = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, 3, 40 * 30, 16, generator=generator) for _ in range(3))
    bias_h = torch.randn(2, 3, 40 * 30, 40, generator=generator)
    bias_w = torch.randn(2, 3, 40 * 30, 30, generator=generator)
    with torch.no_grad():
        tiled = tiled_attention(q, k, v, bias_h, bias_w)
    folded = _folded_attention(q, k, v, bias_h, bias_w, (40, 30))
    torch.testing.assert_close(tiled, folded, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    encoder = ImageEncoderViT(64, embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,))
    encoder(torch.randn(1, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in encoder.named_parameters())


def test_any_encoder_can_be_plugged_in() -> None:
    class Tiny(torch.nn.Module):
        img_size, stride = 256, 32

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 256, kernel_size=32, stride=32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    sam = sam_around(Tiny())
    low, _ = sam.decode(sam.encode(torch.randn(1, 3, 256, 256)), POINTS, None, None, True)
    assert low.shape == (3, 3, 32, 32)


def test_three_layer_decoder_builds_for_the_automatic_mask_model() -> None:
    sam = build_sam("lite", image_size=64, decoder_depth=3)
    assert len(sam.mask_decoder.transformer.layers) == 3
    low, iou = sam.decode(torch.randn(1, 256, 8, 8), None, torch.tensor([[1.0, 1.0, 30.0, 30.0]]), None, True)
    assert low.shape == (1, 3, 32, 32) and iou.shape == (1, 3)


@pytest.mark.parametrize("grad", [False, True], ids=["in-turn", "batch"])
def test_masks_in_thin_factors_are_the_dense_embedding(lite_random: Sam, grad: bool) -> None:
    encoder, decoder = lite_random.prompt_encoder, lite_random.mask_decoder
    h, w = encoder.image_embedding_size
    torch.manual_seed(3)
    embedding = torch.randn(1, encoder.embed_dim, h, w, requires_grad=grad)
    masks, sparse = 5 * torch.randn(3, 1, 4 * h, 4 * w), torch.randn(3, 4, encoder.embed_dim)
    pe, weight = encoder.get_dense_pe(), encoder.mask_downscaling[0].weight
    answers = []
    with torch.set_grad_enabled(grad):
        for dense in (True, False):
            if dense:
                answer = decoder(embedding, pe, sparse, encoder.embed_masks(masks), True)
            else:
                image = decoder.prepare(embedding, pe, encoder.embed_no_mask())
                image = replace(image, masks=encoder.mask_part(masks, image.keys.dtype))
                answer = decoder.decode(image, (h, w), sparse, True)
            gradients = torch.autograd.grad(answer[0].square().mean(), (embedding, weight)) if grad else ()
            answers.append((*answer, *gradients))
    for a, b in zip(*answers, strict=True):
        assert relative_error(b.detach(), a.detach()) < 1e-4 and a.abs().max() > 0
