"""Proves: gradients written by hand are autograd's, and masks dealt to threads give the step of one thread."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anymask.data.loader import Batch
from anymask.model import attention_gradients, cell_gradients, cells, image_encoder
from anymask.model.cell_gradients import CellsWithGradients
from anymask.model.image_encoder import RelPosAttention
from anymask.model.sam import Sam
from anymask.train.clicks import Draws
from anymask.train.config import Phase, TrainConfig
from anymask.train.losses import LossWeights
from anymask.train.parts import Part, Replicas, can_be_dealt, dealt
from anymask.train.photo_rounds import PhotoRounds
from anymask.train.rounds import run_rounds

PLAN = [True, False, True, False]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def discs(num_photos: int, num_masks: int, side: int) -> Batch:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    at = torch.rand(num_photos * num_masks, 3, generator=torch.Generator().manual_seed(1))
    far = torch.stack([((x - side * a) ** 2 + (y - side * b) ** 2).sqrt() for a, b, _ in at])
    masks = (far < side * (0.1 + 0.2 * at[:, 2])[:, None, None]).to(torch.uint8).view(num_photos, num_masks, side, side)
    images = masks.sum(dim=1, keepdim=True).float().expand(-1, 3, -1, -1) * 40
    return Batch(images.contiguous(), masks, [f"photo {i}" for i in range(num_photos)], list(range(num_photos)))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("through_time", [False, True])
def test_written_out_gradients_are_those_of_autograd(
    lite_random: Sam, monkeypatch: pytest.MonkeyPatch, threads: None, num_threads: int, through_time: bool
) -> None:
    torch.set_num_threads(num_threads)
    sam = copy.deepcopy(lite_random).double()
    batch, found, calls = discs(1, 3, 64), [], 0

    def counted(*words: Any) -> CellsWithGradients:
        nonlocal calls
        calls += 1
        return first_update(*words)

    first_update = cell_gradients.first_update
    monkeypatch.setattr(cell_gradients, "first_update", counted)
    for in_turn in (True, False):
        with monkeypatch.context() as patch:
            if not in_turn:
                patch.setattr(cells, "learns_in_turn", lambda x: False)
            torch.manual_seed(0)
            embedding = torch.randn(1, 256, 8, 8, dtype=torch.float64, requires_grad=True)
            draws, weights = Draws.make(3, 5, embedding.device), LossWeights(mean_share=0.5)
            result = run_rounds(sam, embedding, batch.masks[0], 64, PLAN, weights, draws, 0.5, through_time)
            result.loss.backward()
            found.append((result.loss.item(), embedding.grad, gradients(sam)))
        assert calls == len(PLAN) + 1  # of the first of the two
    (loss, grad, of_weights), (loss_by_autograd, grad_by_autograd, of_weights_by_autograd) = found
    assert loss == pytest.approx(loss_by_autograd, rel=1e-6)
    torch.testing.assert_close(grad, grad_by_autograd, rtol=1e-4, atol=1e-9)
    assert of_weights.keys() == of_weights_by_autograd.keys()
    for name, expected in of_weights_by_autograd.items():
        torch.testing.assert_close(of_weights[name], expected, rtol=1e-4, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


GRIDS = [(2, 20, 18, 0), (2, 20, 18, 7), (1, 14, 14, 14), (1, 9, 30, 0), (1, 5, 12, 14)]  # images, h, w, window


@pytest.mark.parametrize("tile", [2**21, 10_000])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("dtype", "flags", "tolerance"),
    [
        (torch.float64, set(), 1e-12),
        (torch.float32, set(), 1e-5),
        (torch.bfloat16, set(), 0.02),
        (torch.bfloat16, {"amx_bf16"}, 0.02),
    ],
)
def test_attention_of_windows_has_the_gradients_of_autograd(
    dtype: torch.dtype,
    flags: set[str],
    tolerance: float,
    grid: tuple[int, int, int, int],
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_gradients, "TILE", tile)
    monkeypatch.setattr(attention_gradients, "cpu_flags", lambda: flags)
    b, h, w, window = grid
    s0, s1 = (window or h), (window or w)
    generator = torch.Generator().manual_seed(7)
    shapes = [(b, h, w, 3, 3, 16), (3, 3, 16), (s0, s0, 16), (s1, s1, 16)]
    scales = (1, 1, 0.25, 0.25)  # the biases are then as large as the products
    inputs = [
        (scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
        for scale, shape in zip(scales, shapes, strict=True)
    ]
    given = torch.randn(b, h, w, 48, generator=generator).to(dtype)
    out = attention_gradients.attention_with_gradients(*inputs)
    found = [out, *torch.autograd.grad(out, inputs, given)]

    exact = [x.detach().double().requires_grad_() for x in inputs]
    qkv, padding, rel_h, rel_w = exact
    whole = padding.expand(b, -(-h // s0) * s0, -(-w // s1) * s1, -1, -1, -1).clone()
    whole[:, :h, :w] = qkv
    cut = whole.unflatten(2, (-1, s1)).unflatten(1, (-1, s0)).transpose(2, 3)  # (B, rows, columns, s0, s1, 3, heads, D)
    q, k, v = cut.reshape(-1, s0 * s1, 3, 3, 16).permute(2, 0, 3, 1, 4)
    monkeypatch.setattr(image_encoder, "computes_on_cpu", lambda x: False)
    windows = image_encoder.rel_pos_attention(q, k, v, rel_h, rel_w, (s0, s1)).transpose(1, 2)
    joined = windows.reshape(*cut.shape[:5], 48).transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :h, :w]
    for mine, true in zip(found, [joined, *torch.autograd.grad(joined, exact, given.double())], strict=True):
        assert mine.dtype == dtype and (mine - true).norm() <= tolerance * true.norm()


@pytest.mark.parametrize("grid", GRIDS)
def test_an_attention_layer_learns_the_same_either_way(
    grid: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    b, h, w, window = grid
    generator = torch.Generator().manual_seed(8)
    layer = RelPosAttention(48, num_heads=3, table_cells=window or h).double()
    for parameter in layer.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator).double()
    inputs = [torch.randn(b, h, w, 48, generator=generator).double().requires_grad_(), *layer.parameters()]
    given, found = torch.randn(b, h, w, 48, generator=generator).double(), []
    for on_cpu in (True, False):
        monkeypatch.setattr(image_encoder, "computes_on_cpu", lambda x, on_cpu=on_cpu: on_cpu)
        out = layer(inputs[0], window)
        found.append([out, *torch.autograd.grad(out, inputs, given)])
    for mine, true in zip(*found, strict=True):
        assert (mine - true).norm() <= 1e-12 * true.norm()


def test_masks_are_dealt_with_few_cuts() -> None:
    assert dealt([8, 8], 2) == [[Part(0, slice(0, 8))], [Part(1, slice(0, 8))]]
    assert dealt([5], 2) == [[Part(0, slice(0, 2))], [Part(0, slice(2, 5))]]
    assert dealt([1], 4) == [[Part(0, slice(0, 1))]]
    assert dealt([3, 1, 2], 1) == [[Part(0, slice(0, 3)), Part(1, slice(0, 1)), Part(2, slice(0, 2))]]
    assert dealt([64], 1) == [[Part(0, slice(0, 64))]]
    assert dealt([64], 2) == [[Part(0, slice(i, i + 16)) for i in (first, first + 32)] for first in (0, 16)]
    for num_masks, num_threads in (([4, 1, 7], 2), ([1, 1], 8), ([9, 9, 9, 9], 6), ([40, 3], 2), ([33], 4)):
        parts = [part for mine in dealt(num_masks, num_threads) for part in mine]
        shown = sorted((part.photo, i) for part in parts for i in range(part.masks.start, part.masks.stop))
        assert shown == [(photo, i) for photo, count in enumerate(num_masks) for i in range(count)]
        assert len(dealt(num_masks, num_threads)) <= num_threads


@pytest.mark.parametrize(("num_photos", "num_masks"), [(2, 3), (1, 5), (3, 2)])
def test_threads_give_the_step_of_one(lite_random: Sam, threads: None, num_photos: int, num_masks: int) -> None:
    config, batch = TrainConfig(model="lite", precision="fp32"), discs(num_photos, num_masks, 64)
    phase = Phase(until_step=1, image_size=64, photos=num_photos, masks=num_masks, num_clicks=2)
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        sam = copy.deepcopy(lite_random)
        rest, log, _, _ = PhotoRounds(config, sam, None)(batch, phase, PLAN, (0,), 1.0)
        assert rest is not None
        rest.backward()
        found.append((log, gradients(sam)))
    (log, grads), (log_of_two, grads_of_two) = found
    for photo, same in zip(log, log_of_two, strict=True):
        for entry, other in zip(photo, same, strict=True):
            known, also_known = ({k: v for k, v in e.items() if v is not None} for e in (entry, other))
            assert entry.keys() == other.keys() and known == pytest.approx(also_known, rel=1e-3, abs=1e-4)
    assert grads.keys() == grads_of_two.keys()
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(
            grads_of_two[name], grad, rtol=2e-3, atol=1e-4 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_copies_share_weights_and_are_made_again_when_these_move(lite_random: Sam, threads: None) -> None:
    torch.set_num_threads(2)
    sam = copy.deepcopy(lite_random)
    replicas = Replicas(sam, 2)
    assert replicas.fit(2) and not replicas.fit(3)
    weight = sam.mask_decoder.iou_token.weight
    with torch.no_grad():
        weight += 1
    assert all(torch.equal(each.mask_decoder.iou_token.weight, weight) for each in replicas.copies)
    for i, each in enumerate(replicas.copies):
        each.mask_decoder.iou_token.weight.sum().mul(i + 1).backward()
    replicas.add_gradients()
    assert weight.grad is not None and weight.grad.eq(3).all()
    assert all(each.mask_decoder.iou_token.weight.grad is None for each in replicas.copies)
    weight.requires_grad_(False)
    assert not replicas.fit(2)
    weight.requires_grad_(True)
    weight.data = weight.data.clone()
    assert not replicas.fit(2)


def test_what_draws_in_the_decoder_stays_in_one_thread(lite_random: Sam, threads: None) -> None:
    sam = copy.deepcopy(lite_random)
    torch.set_num_threads(1)
    assert not can_be_dealt(sam)
    torch.set_num_threads(2)
    assert can_be_dealt(sam)
    sam.mask_decoder.transformer.layers[0].add_module("drop", nn.Dropout(0.1))
    assert not can_be_dealt(sam)


def test_a_model_elsewhere_stays_whole(lite_random: Sam, threads: None) -> None:
    torch.set_num_threads(2)
    assert not can_be_dealt(copy.deepcopy(lite_random).to("meta"))
