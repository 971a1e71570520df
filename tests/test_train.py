"""Proves: losses by hand, the simulated annotator's rules, the rounds, and a run that goes on exactly after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from train_data import write_discs

from anymask.cli.train import find_recipe
from anymask.core.errors import InputError, OptionError
from anymask.data.augment import Augmentation, masks_in_view, other_camera, random_view, zoomed_view
from anymask.data.loader import PromptDataset, collate
from anymask.data.readers import read_shards
from anymask.model.sam import Sam
from anymask.train.clicks import (
    Draws,
    bounding_boxes,
    corrective_clicks,
    first_prompts,
    noised_boxes,
    round_plan,
    sample_pixels,
)
from anymask.train.config import TrainConfig, load_config
from anymask.train.losses import LossWeights, dice_loss, mask_iou, mask_losses, round_loss
from anymask.train.optimizer import lr_factor, peak_lr
from anymask.train.rounds import decode_prompts, run_rounds


def draws_of(num_masks: int) -> Draws:
    return Draws.make(num_masks, 11, torch.device("cpu"))


def test_losses_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0], [-1.0, 0.0]]]])
    target = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    p = 1 / (1 + np.exp(-np.array([0.0, 2.0, -1.0, 0.0])))
    t = np.array([0.0, 1, 0, 1])
    p_t = np.where(t == 1, p, 1 - p)
    plain = (1 - p_t) ** 2 * -np.log(p_t)
    weighted = np.where(t == 1, 0.25, 0.75) * plain
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    for alpha, focal in ((None, plain), (0.25, weighted)):
        loss, iou = mask_losses(logits, target, LossWeights(focal=20, dice=3, alpha=alpha))
        assert loss.item() == pytest.approx(20 * focal.mean() + 3 * dice, rel=1e-5)
        assert iou.item() == pytest.approx(1 / 2)
    assert dice_loss(logits, target).item() == pytest.approx(dice, rel=1e-5)
    assert mask_iou(logits, target).item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_losses_have_the_gradient_of_autograd(alpha: float | None, gamma: float, device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (8 * torch.randn(2, 3, 9, 7, generator=generator)).double().requires_grad_()
    target = (3 * torch.rand(2, 9, 7, generator=generator) - 1).clamp(0, 1).double()
    goal, given = target.unsqueeze(1).expand(logits.shape), torch.randn(2, 3, generator=generator).double()
    weights = LossWeights(alpha=alpha, gamma=gamma)
    p = logits.sigmoid()
    focal = (p + goal - 2 * p * goal) ** gamma * F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    focal = focal if alpha is None else (alpha * goal + (1 - alpha) * (1 - goal)) * focal
    expected = 20 * focal.mean(dim=(-2, -1)) + dice_loss(logits, goal)
    loss, iou = mask_losses(logits.to(device), target.to(device), weights)
    assert loss.shape == iou.shape == (2, 3) and not iou.requires_grad
    if device == "meta":
        return
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(iou, mask_iou(logits, goal))
    found, true = (torch.autograd.grad(each, logits, given)[0] for each in (loss, expected))
    torch.testing.assert_close(found, true, rtol=1e-7, atol=1e-9)


def test_the_losses_of_a_sure_answer_are_finite() -> None:
    logits = torch.tensor([-200.0, 200, -200, 200]).view(1, 1, 2, 2).requires_grad_()
    for gamma in (0.0, 0.5, 1.0, 2.0):
        for target in (torch.tensor([[[0.0, 1], [1, 0]]]), torch.tensor([[[0.5, 1], [0, 0.2]]])):
            loss, _ = mask_losses(logits, target, LossWeights(gamma=gamma))
            (grad,) = torch.autograd.grad(loss.sum(), logits)
            assert loss.isfinite().all() and grad.isfinite().all()


def test_gradient_goes_through_the_least_loss_only() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, :4] = 1
    logits = torch.stack([torch.zeros(8, 8), 4 * (2 * target[0] - 1), torch.zeros(8, 8)])[None]
    logits.requires_grad_()
    result = round_loss(logits, torch.zeros(1, 3), target, LossWeights())
    result.mask.backward()
    moved = logits.grad.abs().sum(dim=(-2, -1))[0]  # type: ignore[union-attr]
    assert moved[1] > 0 and moved[0] == 0 and moved[2] == 0
    assert result.best_iou.item() == 1
    assert result.iou.item() == pytest.approx(float((result.true_iou**2).mean()))


def test_sampled_pixels_are_uniform_and_inside() -> None:
    torch.manual_seed(0)
    region = torch.zeros(1, 10, 12, dtype=torch.bool)
    region[0, 2:4, 5:10] = True
    at = sample_pixels(region.expand(5000, -1, -1), torch.rand(5000, dtype=torch.float64))
    counts = torch.zeros(10, 12)
    for x, y in at.tolist():
        counts[y, x] += 1
    assert (counts > 0).equal(region[0])
    assert counts[region[0]].min() > 400  # 500 expected of each of ten pixels


def test_boxes_and_their_noise() -> None:
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 3:7, 5:21] = True
    masks[1, 19, 29] = True
    assert bounding_boxes(masks).tolist() == [[5, 3, 20, 6], [29, 19, 29, 19]]
    torch.manual_seed(0)
    box = torch.tensor([[300.0, 400.0, 380.0, 440.0]]).expand(20000, -1)
    moved = noised_boxes(box, 1024, torch.randn(len(box), 4)) - box
    assert moved[:, 0].std().item() == pytest.approx(8, rel=0.05)  # 10 % of the 80 px side
    assert moved[:, 1].std().item() == pytest.approx(4, rel=0.05)
    large = torch.tensor([[0.0, 0.0, 1023.0, 1023.0]]).expand(2000, -1)
    noised = noised_boxes(large, 1024, torch.randn(len(large), 4))
    assert (noised - large).abs().max() <= 20
    assert noised.max() <= 1023 and noised.min() >= 0


def test_first_prompts_are_half_boxes_and_points_lie_inside() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:20, 30:50] = True
    prompts = first_prompts(mask.expand(2000, -1, -1), 256, draws_of(2000))
    is_box = prompts.labels[:, 0] == 2
    assert 0.45 < is_box.float().mean() < 0.55
    assert prompts.labels[is_box].unique(dim=0).tolist() == [[2, 3]]
    assert prompts.labels[~is_box].unique(dim=0).tolist() == [[1, -1]]
    points = prompts.coords_xy[~is_box, 0]
    assert points.min(dim=0).values.tolist() == [30 * 4 + 1.5, 10 * 4 + 1.5]
    assert points.max(dim=0).values.tolist() == [49 * 4 + 1.5, 19 * 4 + 1.5]


def test_corrective_clicks_have_the_sign_of_the_error() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True
    logits = torch.where(mask, 5.0, -5.0)
    logits[0, 4, 4:8] = -5  # missed
    logits[1, 12, 12] = 5  # too much
    coords, labels = corrective_clicks(logits, mask, 16, draws_of(3).pixels[:, 0])
    assert labels.tolist() == [1, 0, 1]  # nothing wrong in the third: a foreground click
    assert coords[0, 1] == 4 and coords[1].tolist() == [12, 12]
    x, y = coords[2].long().tolist()
    assert mask[2, y, x]


def test_round_plan_is_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    plans = [round_plan(8, 2, generator) for _ in range(300)]
    assert all(len(p) == 10 and sum(p) == 8 and p[-1] is False for p in plans)
    places = {p.index(False) for p in plans}
    assert places == set(range(9))  # anywhere among the eight clicks


def test_rounds_feed_logits_back_and_train_every_part(lite_random: Sam) -> None:
    torch.manual_seed(0)
    masks = torch.zeros(4, 128, 128, dtype=torch.uint8)
    for i in range(4):
        masks[i, 10 + 20 * i : 50 + 20 * i, 20:90] = 1
    embedding = torch.randn(1, 256, 16, 16, requires_grad=True)
    weights = LossWeights(mean_share=0.5)  # all three masks, else some heads may win no mask
    result = run_rounds(lite_random, embedding, masks, 128, round_plan(8, 2), weights, draws_of(4))
    assert len(result.per_round) == 11
    result.loss.backward()
    untouched = [
        name
        for module in (lite_random.prompt_encoder, lite_random.mask_decoder)
        for name, p in module.named_parameters()
        if p.grad is None or not p.grad.abs().sum()
    ]
    # attention logits do not depend on a key bias: softmax ignores what is equal for all keys
    assert all(name.endswith("k_proj.bias") for name in untouched), untouched
    lite_random.zero_grad()


def test_gradient_through_time_is_optional(lite_random: Sam) -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 10:50, 10:50] = 1
    grads = []
    for through in (False, True):
        torch.manual_seed(0)
        embedding = torch.randn(1, 256, 8, 8, requires_grad=True)
        result = run_rounds(
            lite_random, embedding, masks, 64, [True, False], LossWeights(), draws_of(1), 0.0, through_time=through
        )
        result.loss.backward()
        grads.append(embedding.grad)
        lite_random.zero_grad()
    assert not torch.allclose(grads[0], grads[1])


def test_the_last_mask_teaches_the_first_prompt(lite_random: Sam) -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 10:50, 10:50], masks[1, 30:60, 5:25] = 1, 1
    grads, losses = [], []
    for distil, at_once in ((0.0, True), (2.0, True), (2.0, False)):
        torch.manual_seed(0)
        embedding = torch.randn(1, 256, 8, 8, requires_grad=True)
        on_loss = (lambda loss: loss.backward()) if at_once else None
        result = run_rounds(
            lite_random,
            embedding,
            masks,
            64,
            [True, False],
            LossWeights(),
            draws_of(2),
            0.0,
            on_loss=on_loss,
            distil=distil,
        )
        if not at_once:
            result.loss.backward()
        grads.append(embedding.grad)
        losses.append(result.loss.item())
        assert len(result.per_round) == 3
        lite_random.zero_grad()
    torch.testing.assert_close(grads[1], grads[2])
    assert losses[1] == pytest.approx(losses[2]) and losses[1] > losses[0]
    assert not torch.allclose(grads[0], grads[1])


def test_prompts_in_a_batch_equal_prompts_alone(lite_random: Sam) -> None:
    torch.manual_seed(0)
    masks = torch.rand(5, 32, 32) > 0.5
    prompts = first_prompts(masks, 256, draws_of(5))
    embedding = torch.randn(1, 256, 8, 8)
    with torch.no_grad():
        together, _ = decode_prompts(lite_random, embedding, prompts.coords_xy, prompts.labels, None, 256, True)
        for i in range(5):
            alone, _ = decode_prompts(
                lite_random, embedding, prompts.coords_xy[i : i + 1], prompts.labels[i : i + 1], None, 256, True
            )
            torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)


def test_views_move_photo_and_masks_together() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:40, 30:70] = 200
    mask = (image[..., 0] > 0).astype(np.uint8)[None]
    for seed in range(30):
        view, masks = random_view(image, mask, 64, Augmentation((0.5, 2.0), flip=0.5), np.random.default_rng(seed))
        inside = np.nan_to_num(view[..., 0]) > 100
        assert view.shape == (64, 64, 3) and masks.shape == (1, 64, 64)
        assert (inside != masks[0].astype(bool)).mean() < 0.06


@given(
    st.integers(20, 300), st.integers(20, 300), st.lists(st.floats(0, 0.99), min_size=4, max_size=4),
    st.integers(0, 10_000),
)  # fmt: skip
def test_a_zoomed_view_holds_its_mask_whole(height: int, width: int, shares: list[float], seed: int) -> None:
    (x0, x1), (y0, y1) = (sorted(int(s * n) for s in part) for part, n in ((shares[:2], width), (shares[2:], height)))
    x1, y1 = min(width - 1, x1 + 6), min(height - 1, y1 + 6)  # thinner masks may fall between the pixels of a view
    x0, y0 = min(x0, x1 - 6), min(y0, y1 - 6)
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, y0 : y1 + 1, x0 : x1 + 1] = 1
    box = np.array([x0, y0, x1, y1])
    view = zoomed_view((height, width), box, 128, Augmentation(flip=0.5), np.random.default_rng(seed))
    top, left, bottom, right = view.window
    assert 0 <= top <= y0 and y1 < bottom <= height and 0 <= left <= x0 and x1 < right <= width
    assert max(view.drawn_hw) <= 128
    drawn = masks_in_view(mask, view)[0]
    for axis, (first, last, window) in enumerate(((y0, y1, bottom - top), (x0, x1, right - left))):
        scale = view.drawn_hw[axis] / window
        assert abs(drawn.any(axis=1 - axis).sum() - (last - first + 1) * scale) <= 2 + scale


def test_zoom_shows_small_masks_larger(shards: Path) -> None:
    photos = read_shards([shards])
    sizes = {}
    for zoom in (0.0, 1.0):
        augmentation = Augmentation(zoom=zoom)
        data = PromptDataset(photos, side=64, masks_per_photo=1, length=12, augmentation=augmentation)
        sizes[zoom] = np.mean([data[i].masks.float().mean() for i in range(12)])
    assert sizes[1.0] > 1.5 * sizes[0.0]


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_another_camera_shows_whole_levels_and_is_seeded(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)
    before = image.copy()
    seen, again = (other_camera(image, np.random.default_rng(seed)) for _ in range(2))
    assert seen.shape == image.shape and seen.dtype == np.float32 and np.array_equal(seen, again)
    assert np.array_equal(seen, np.rint(seen)) and seen.min() >= 0 and seen.max() <= 255
    assert np.array_equal(image, before), "the photo itself stays"


def test_other_cameras_take_dark_grey_and_negative_views() -> None:
    image = np.broadcast_to(np.linspace(0, 255, 48, dtype=np.float32)[:, None, None], (48, 48, 3)) * (1, 0.5, 0.2)
    seen = [other_camera(image.astype(np.float32), np.random.default_rng(seed)) for seed in range(60)]
    assert any(view.max() < 50 for view in seen) and any(view.max() > 200 for view in seen)
    assert any((view == view[..., :1]).all() for view in seen) and any((view != view[..., :1]).any() for view in seen)
    assert any(view[:8].mean() > view[-8:].mean() for view in seen), "a negative"


def test_views_of_other_cameras_keep_what_is_no_photo(shards: Path) -> None:
    make = lambda camera: PromptDataset(  # noqa: E731
        read_shards([shards]), side=64, masks_per_photo=2, length=6, min_area_px=1,
        augmentation=Augmentation((0.5, 0.7), camera=camera),
    )  # fmt: skip
    plain, other = make(0.0), make(1.0)
    for i in range(6):
        assert torch.equal(plain[i].masks, other[i].masks)
        assert torch.equal(plain[i].image.isnan(), other[i].image.isnan()) and plain[i].image.isnan().any()
        assert not torch.equal(plain[i].image.nan_to_num(), other[i].image.nan_to_num())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of six small pictures with discs."""
    return write_discs(tmp_path_factory.mktemp("shards"))


def test_a_sample_is_a_function_of_its_number(shards: Path) -> None:
    photos = read_shards([shards])
    augmentation = Augmentation((0.5, 1.5), 0.5, 0.2)
    make = lambda seed: PromptDataset(  # noqa: E731
        photos, side=64, masks_per_photo=4, length=9, augmentation=augmentation, seed=seed
    )
    a, b, other = make(0)[5], make(0)[5], make(1)[5]
    assert torch.equal(torch.nan_to_num(a[0]), torch.nan_to_num(b[0])) and torch.equal(a[1], b[1])
    assert not torch.equal(torch.nan_to_num(a[0]), torch.nan_to_num(other[0]))
    batch = collate([a, b])
    assert batch.numbers == [5, 5]
    assert batch.images.shape == (2, 3, 64, 64) and batch.masks.shape == (2, 4, 64, 64)


def test_bad_data_is_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tar shards"):
        read_shards([tmp_path])
    (tmp_path / "bad-000.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match=r"bad-000\.tar: not a readable tar"):
        read_shards([tmp_path])
    with pytest.raises(InputError, match="training set is empty"):
        PromptDataset([], side=64, masks_per_photo=1, length=1)


def test_recipes_and_overrides(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("lr: 1e-3\nphases:\n  - {until_step: 10}\n")
    config = load_config(recipe, ["ema=0.5", "losses.focal=3"])
    assert isinstance(config, TrainConfig)
    assert (config.lr, config.ema, config.losses.focal, config.total_steps) == (1e-3, 0.5, 3.0, 10)
    with pytest.raises(OptionError, match="lrr"):
        load_config(recipe, ["lrr=1"])
    with pytest.raises(OptionError, match="ema"):
        load_config(recipe, ["ema=high"])


def test_learning_rate_warms_up_stays_and_decays() -> None:
    config = TrainConfig(warmup_steps=10, decay_steps=20)
    config.phases[0].until_step = 100
    factors = [lr_factor(s, config) for s in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1 and factors[79] == 1
    assert factors[99] == pytest.approx(1 / 20) and factors == sorted(factors[:10]) + factors[10:]


def shipped_recipe(name: str) -> TrainConfig:
    return load_config(find_recipe(name))


def test_the_papers_recipes_have_the_papers_numbers() -> None:
    h, lar, b = (shipped_recipe(f"sam_vit_{size}") for size in "hlb")
    factors = [round(lr_factor(s, h), 6) for s in (0, 249, 59_999, 60_000, 86_665, 86_666)]
    assert factors == [0.004, 1, 1, 0.1, 0.1, 0.01]
    assert (h.lr, lar.lr, b.lr) == (8e-4, 4e-4, 8e-4)
    assert (h.total_steps, lar.total_steps, b.total_steps) == (90_000, 180_000, 180_000)
    assert (h.drop_path, b.drop_path, h.layer_decay, b.layer_decay) == (0.4, 0.6, 0.8, 0.6)
    for config in (h, lar, b):
        (phase,) = config.phases
        assert (phase.masks, phase.num_clicks, phase.num_empty, phase.image_size) == (64, 8, 2, 1024)
        assert (config.losses.focal, config.losses.dice, config.weight_decay, config.dropout) == (20, 1, 0.1, 0.1)
        assert config.scale == [1, 1] and config.box_chance == 0.5 and config.warmup_steps == 250
    automatic = shipped_recipe("automatic")
    assert automatic.decoder_depth == 3 and automatic.box_chance == 0 and automatic.scale == [0.1, 2.0]
    assert automatic.phases[0].num_clicks == 3 and automatic.total_steps == 177_656


def test_layer_decay_counts_from_the_top() -> None:
    config = TrainConfig(encoder_lr=1.0, lr=2.0, layer_decay=0.5)
    rates = {
        "image_encoder.patch_embed.proj.weight": 0.5**13,
        "image_encoder.pos_embed": 0.5**13,
        "image_encoder.blocks.0.attn.qkv.weight": 0.5**12,
        "image_encoder.blocks.11.mlp.lin1.weight": 0.5,
        "image_encoder.neck.0.weight": 1.0,
        "mask_decoder.iou_token.weight": 2.0,
    }
    assert {name: peak_lr(name, 12, config) for name in rates} == rates


RECIPE = """
model: lite
affinity: 1.0
affinity_masks: 4
warmup_steps: 2
decay_steps: 2
save_every: 4
scale: [0.7, 1.4]
flip: 0.5
loader_workers: 0
phases:
  - {until_step: 5, image_size: 64, cells: 4, photos: 2, masks: 2, num_clicks: 1, num_empty: 1, min_area_px: 1}
  - {until_step: 32, image_size: 64, photos: 1, masks: 3, num_clicks: 1, num_empty: 0, min_area_px: 1}
"""


def test_a_killed_run_goes_on_exactly(shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "anymask", "train", "--config", str(recipe)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, "--data", str(shards), "--out", str(out)], env=env)

    def losses(out: Path) -> dict[int, float]:
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        return {line["step"]: line["rounds"][0]["loss"] for line in lines}

    whole = start(tmp_path / "whole")
    killed = tmp_path / "killed"
    victim = start(killed)
    deadline = time.time() + 120
    while time.time() < deadline and not (killed / "state.pt").exists():
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    done = len((killed / "log.jsonl").read_text().splitlines())
    assert (killed / "state.pt").exists() and done <= 12, "killed too late to have 20 steps left"
    codes = start(killed).wait(), whole.wait()
    assert codes == (0, 0)
    a, b = losses(tmp_path / "whole"), losses(killed)
    assert set(a) == set(range(1, 33))
    assert b == a  # a step done twice gives the same loss, and so does every later one
