"""Proves that the Hugging Face key table is complete and right: same keys, same shapes, same outputs.

The reference is transformers' own `SamModel`, built small (2 encoder blocks of width 32, 64×64 pixels).
"""

from __future__ import annotations

import pytest
import torch

from anymask.model.image_encoder import ImageEncoderViT
from anymask.model.presets import sam_around
from anymask.model.sam import Sam
from anymask.weights.remap import from_huggingface, is_huggingface, to_huggingface

transformers = pytest.importorskip("transformers")


def tiny_ours() -> Sam:
    encoder = ImageEncoderViT(
        img_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        window_size=3,
        global_attn_indexes=(1,),
        table_size=64,
    )
    return sam_around(encoder).eval()


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    vision = transformers.SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        window_size=3,
        global_attn_indexes=[1],
    )
    prompts = transformers.SamPromptEncoderConfig(image_size=64)
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompts)
    model = transformers.SamModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # their start is all but zero: give every tensor a say
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise if parameter.ndim < 2 else noise * 0.5 / parameter[0].numel() ** 0.5)
    return model


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def test_their_keys_become_ours(theirs: torch.nn.Module) -> None:
    assert shapes(from_huggingface(theirs.state_dict())) == shapes(tiny_ours().state_dict())


def test_our_keys_become_theirs(theirs: torch.nn.Module) -> None:
    assert shapes(to_huggingface(tiny_ours().state_dict())) == shapes(theirs.state_dict())


def test_there_and_back_is_the_same() -> None:
    ours = tiny_ours().state_dict()
    back = from_huggingface(to_huggingface(ours))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_the_two_layouts_are_told_apart(theirs: torch.nn.Module) -> None:
    assert is_huggingface(theirs.state_dict())
    assert not is_huggingface(tiny_ours().state_dict())


def test_unknown_keys_are_kept_for_the_report() -> None:
    state = {"vision_encoder.pos_embed": torch.zeros(1), "text_encoder.weight": torch.zeros(1)}
    assert list(from_huggingface(state)) == ["image_encoder.pos_embed", "text_encoder.weight"]


@pytest.mark.parametrize("prompt", ["points", "box", "mask"])
@torch.no_grad()
def test_the_outputs_agree(theirs: torch.nn.Module, prompt: str) -> None:
    ours = tiny_ours()
    ours.load_state_dict(from_huggingface(theirs.state_dict()))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    points = torch.tensor([[[20.0, 30.0], [50.0, 10.0]]])
    labels = torch.tensor([[1, 0]])
    box = torch.tensor([[5.0, 6.0, 40.0, 50.0]])
    mask = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    asked: dict[str, torch.Tensor] = {"input_boxes": box[None]}
    given: dict[str, object] = {"points": None, "boxes": box, "masks": None}
    if prompt != "box":
        asked = {"input_points": points[None], "input_labels": labels[None]}
        given = {"points": (points, labels), "boxes": None, "masks": None}
    if prompt == "mask":
        asked["input_masks"] = given["masks"] = mask
    embedding = ours.encode(image)
    assert_close(embedding, theirs.get_image_embeddings(image))
    for multimask in (True, False):
        expected = theirs(pixel_values=image, multimask_output=multimask, **asked)
        low_res, iou = ours.decode(embedding, **given, multimask_output=multimask)  # type: ignore[arg-type]
        assert_close(low_res, expected.pred_masks[0])
        assert_close(iou, expected.iou_scores[0])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 1e-3  # something to compare
    assert ((ours - theirs).norm() / theirs.norm()).item() <= 1e-4
