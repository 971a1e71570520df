"""Proves: any part can be frozen; low-rank updates train q and v alone and merge into plain weights that load
anywhere; a decoder trains on stored embeddings as it would on computed ones; the finetune recipes run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from train_data import write_discs
from train_worker import TINY_VIT, train

from anymask.cli.train import find_recipe
from anymask.core.errors import CheckpointError, OptionError
from anymask.data.readers import read_shards
from anymask.model import presets
from anymask.model.presets import build_sam
from anymask.train.build import build_trainable
from anymask.train.cache import EmbeddingCache, encoder_key
from anymask.train.config import TrainConfig, load_config
from anymask.train.lora import add_lora, merge_lora
from anymask.weights.load import load_model
from anymask.weights.save import save_model

SMALL = [
    "phases.0.until_step=2", "phases.0.photos=1", "phases.0.masks=2", "phases.0.num_clicks=1", "phases.0.min_area_px=1",
    "loader_workers=0", "curves=false", "device=cpu", "warmup_steps=1", "decay_steps=0",
]  # fmt: skip


@pytest.fixture
def tiny_vit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a ViT with two narrow blocks that is called vit_b."""
    monkeypatch.setitem(presets.VIT_SIZES, "vit_b", TINY_VIT)
    torch.manual_seed(0)
    save_model(build_sam("vit_b"), tmp_path / "vit.safetensors", "vit_b")
    return tmp_path / "vit.safetensors"


def test_frozen_parts_stay(tmp_path: Path) -> None:
    """The encoder but its neck, and one part of the decoder, are frozen by name."""
    data = write_discs(tmp_path / "data")
    frozen = ["image_encoder.backbone.", "image_encoder.context", "mask_decoder.transformer.layers.0."]
    overrides = [*SMALL, "phases.0.image_size=64", f"freeze=[{','.join(frozen)}]", "ema=0"]
    start = build_trainable(load_config(find_recipe("finetune"), overrides)).state_dict()
    one_phase = "phases=[{image_size: 64, num_empty: 1}]"
    trainer = train(find_recipe("finetune"), data, tmp_path / "run", 2, [one_phase, *overrides])
    moved = {k for k, v in trainer.sam.state_dict().items() if not torch.equal(v, start[k])}
    assert moved and not any(k.startswith(tuple(frozen)) for k in moved)
    assert {k.split(".")[1] for k in moved} >= {"neck", "lateral8", "transformer", "iou_token", "point_embeddings"}
    assert load_model(tmp_path / "run" / "model.safetensors")


def test_updates_start_at_nothing_touch_q_and_v_and_merge(tiny_vit: Path) -> None:
    torch.manual_seed(0)
    sam = load_model(tiny_vit)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = sam.image_encoder(image)
        before = {k: v.clone() for k, v in sam.state_dict().items()}
        add_lora(sam.image_encoder, rank=2, alpha=8.0)
        assert torch.equal(sam.image_encoder(image), plain)
        for name, parameter in sam.image_encoder.named_parameters():
            assert parameter.requires_grad == (name.startswith("neck.") or "_up" in name or "_down" in name), name
            if "_up" in name:
                parameter.normal_()
        updated = sam.image_encoder(image)
        merged = merge_lora(sam.state_dict(), scale=4.0)
        fresh = build_sam("vit_b")
        fresh.load_state_dict(merged)
        torch.testing.assert_close(fresh.image_encoder(image), updated, atol=1e-5, rtol=1e-4)
    assert (updated - plain).abs().max() > 1e-3
    width = TINY_VIT.embed_dim
    for key, value in merged.items():
        if key.endswith("qkv.weight"):
            assert torch.equal(value[width : 2 * width], before[key][width : 2 * width])  # k is as it was
            assert not torch.equal(value[:width], before[key][:width])
            assert not torch.equal(value[2 * width :], before[key][2 * width :])
        else:
            assert torch.equal(value, before[key])


def test_the_lora_recipe_gives_a_plain_model(tiny_vit: Path, tmp_path: Path) -> None:
    data = write_discs(tmp_path / "data")
    rates = ["lr=1e-2", "encoder_lr=1e-2", "ema=0"]
    overrides = [*SMALL, *rates, f"init={tiny_vit}", "phases.0.image_size=64", "accumulate=2"]
    trainer = train(find_recipe("finetune_lora"), data, tmp_path / "run", 2, overrides)
    start, end = load_model(tiny_vit).state_dict(), load_model(tmp_path / "run" / "model.safetensors").state_dict()
    assert start.keys() == end.keys()
    moved = {k for k in start if not torch.allclose(start[k], end[k], atol=2e-3)}
    blocks = {k for k in moved if ".blocks." in k}
    assert blocks == {f"image_encoder.blocks.{i}.attn.qkv.weight" for i in range(2)}
    assert any(k.startswith("mask_decoder.") for k in moved)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = trainer.sam.eval().image_encoder(image)
        got = load_model(tmp_path / "run" / "model.safetensors").image_encoder(image)
    assert (got - expected).abs().mean() < 0.02 * expected.abs().mean()  # stored in float16


def test_lora_of_lite_says_what_to_use() -> None:
    with pytest.raises(OptionError, match="recipe finetune"):
        load_config(find_recipe("finetune"), ["lora_rank=4"])
    with pytest.raises(OptionError, match="ViT"):
        add_lora(build_sam("lite").image_encoder, 4, 8.0)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for line in lines for entry in line["rounds"]]


def test_stored_embeddings_train_as_computed_ones(tmp_path: Path) -> None:
    data = write_discs(tmp_path / "data", num_photos=3)
    overrides = [*SMALL, "phases.0.image_size=64", "precision=fp32", "phases.0.until_step=3"]
    run = tmp_path / "stored"
    train(find_recipe("finetune_decoder"), data, run, 3, overrides)
    files = sorted((run / "embeddings").glob("*.safetensors"))
    assert len(files) == 3
    times = [f.stat().st_mtime_ns for f in files]
    train(find_recipe("finetune_decoder"), data, tmp_path / "computed", 3, [*overrides, "cache_embeddings=false"])
    assert losses(run) == pytest.approx(losses(tmp_path / "computed"), rel=2e-2)
    again = [*overrides, f"cache_dir={run / 'embeddings'}"]
    train(find_recipe("finetune_decoder"), data, tmp_path / "again", 3, again)
    assert [f.stat().st_mtime_ns for f in files] == times  # computed once
    assert losses(tmp_path / "again") == losses(run)
    start, end = load_model("lite").state_dict(), load_model(run / "model.safetensors").state_dict()
    encoder = [k for k in start if k.startswith("image_encoder.")]
    assert all(torch.equal(start[k].half(), end[k].half()) for k in encoder)
    assert any(not torch.equal(start[k].half(), end[k].half()) for k in start)


def test_the_name_of_an_embedding_follows_from_its_content(tmp_path: Path) -> None:
    a, b, *_ = read_shards([write_discs(tmp_path)])
    torch.manual_seed(0)
    sam = build_sam("lite")
    cache = EmbeddingCache(tmp_path / "cache", encoder_key(sam))
    assert len({cache.path(a, 64), cache.path(b, 64), cache.path(a, 96)}) == 3
    with torch.no_grad():
        sam.image_encoder.neck[0].bias += 1e-3
    assert EmbeddingCache(tmp_path / "cache", encoder_key(sam)).path(a, 64) != cache.path(a, 64)
    config = TrainConfig(precision="fp32")
    said: list[str] = []
    cache.fill(sam, [a, b], 64, config, said.append)
    cache.path(a, 64).write_bytes(cache.path(a, 64).read_bytes()[:1000])  # cut off: made again
    cache.fill(sam, [a, b], 64, config, said.append)
    assert [text.split(" in ")[0] for text in said] == ["embeddings: 2 of 2", "embeddings: 1 of 1"]
    assert cache(a, 64).shape == (256, 8, 8)


@pytest.mark.parametrize("change", ["freeze=[]", "flip=0.5", "scale=[0.5,1]", "affinity=1"])
def test_stored_embeddings_need_photos_as_they_are(change: str) -> None:
    with pytest.raises(OptionError, match="cache_embeddings"):
        load_config(find_recipe("finetune_decoder"), [change])


def test_mae_weights_start_an_encoder(tiny_vit: Path, tmp_path: Path) -> None:
    """A file as MAE's: class token, 14×14 table, fc1 and fc2, a decoder that is not wanted."""
    sam = load_model(tiny_vit)
    width, block = TINY_VIT.embed_dim, "image_encoder.blocks."
    renamed = {
        k.removeprefix("image_encoder.").replace("lin1", "fc1").replace("lin2", "fc2"): v + 1
        for k, v in sam.state_dict().items()
        if k.startswith((block, "image_encoder.patch_embed.")) and "rel_pos" not in k
    }
    y = torch.arange(14.0).reshape(14, 1, 1).expand(14, 14, width)  # a ramp, which interpolation keeps
    table = torch.cat([torch.full((1, width), 99.0), y.reshape(196, width)])[None]
    extra = {"cls_token": torch.zeros(1, 1, width), "decoder_embed.weight": torch.zeros(8, width), "pos_embed": table}
    torch.save({"model": renamed | extra}, tmp_path / "mae.pth")
    config = load_config(find_recipe("sam_vit_b"), [f"init={tmp_path / 'mae.pth'}"])
    torch.manual_seed(0)
    started = build_trainable(config).state_dict()
    assert torch.equal(started[f"{block}1.mlp.lin1.weight"], sam.state_dict()[f"{block}1.mlp.lin1.weight"] + 1)
    assert not started[f"{block}0.attn.rel_pos_h"].any()
    column = started["image_encoder.pos_embed"][0, :, 5, 0]
    assert column.shape == (64,) and torch.equal(column, started["image_encoder.pos_embed"][0, :, 60, 3])
    ramp = (torch.arange(64.0) + 0.5) * 14 / 64 - 0.5  # the same places on the old grid
    assert torch.allclose(column[8:56], ramp[8:56], atol=0.1) and column.max() < 20


def test_weights_of_another_model_are_named(tiny_vit: Path) -> None:
    with pytest.raises(CheckpointError, match="is of another model"):
        build_trainable(load_config(find_recipe("finetune"), [f"init={tiny_vit}"]))
