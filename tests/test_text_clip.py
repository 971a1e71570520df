"""Proves: the paper's text recipe runs whole with a CLIP of open_clip: crops, masked attention, training rounds that
start with a vector, weights that keep the text prompt, phrases and clicks at use. The CLIP is tiny and random: its
meanings are not tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from train_data import write_discs

from anymask.core.errors import CheckpointError, InputError, OptionError
from anymask.data.readers import open_dataset
from anymask.predict.segmenter import TorchSegmenter
from anymask.text.clip import ClipEmbedder, square
from anymask.text.prompts import decode_text
from anymask.train.config import load_config
from anymask.train.loop import Trainer
from anymask.train.photo_rounds import text_embedder
from anymask.weights.load import load_model

WIDTH = 24


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def write_clip(folder: Path) -> Path:
    """A random CLIP: two blocks each, pictures of 32 px in patches of 8."""
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    config = {"model_cfg": {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def test_squares_keep_the_aspect_and_end_in_black() -> None:
    image, mask = torch.full((3, 40, 60), 200.0), torch.zeros(40, 60, dtype=torch.bool)
    mask[5:15, 50:60] = True
    picture, share = square(image, mask, 2.0, False, 20)  # 20×20 px around the box, its right quarter beyond the photo
    assert picture.shape == (3, 20, 20) and share.shape == (20, 20)
    assert share[5:15, 5:15].min() == 1 and share.sum() == 100
    assert picture[:, :, :15].min() == 200 and picture[:, :, 15:].max() == 0
    alone, _ = square(image, mask, 2.0, True, 20)
    assert (alone[0] > 0).sum() == 100
    everything, share = square(image, torch.zeros_like(mask), 1.0, False, 20)  # an empty mask: all of the photo
    assert share.max() == 0 and everything.max() == pytest.approx(200)


def test_the_class_token_sees_the_mask_only(clip_folder: Path) -> None:
    """In the last block; where nothing is hidden, the vector is open_clip's own."""
    embedder = ClipEmbedder(clip_folder)
    assert (embedder.width, embedder.side) == (WIDTH, 32)
    picture = torch.rand(1, 3, 32, 32) * 255
    whole = embedder._masked(picture, torch.ones(1, 32, 32))
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (embedder.model.visual.image_mean, embedder.model.visual.image_std)
    )
    torch.testing.assert_close(whole, embedder.model.encode_image((picture / 255 - mean) / std))
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    tower = embedder.model.visual
    seen = []
    hook = tower.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    masked = embedder._masked(picture, left)
    assert (masked - whole).abs().max() > 1e-4
    hook.remove()
    other = seen[0].clone()
    other[:, 1:].view(1, 4, 4, -1)[:, :, 2:] += 5  # patches right of the mask
    hook = tower.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: (other, *args[1:]))
    torch.testing.assert_close(embedder._masked(picture, left), masked)
    hook.remove()


def test_vectors_have_length_one(clip_folder: Path) -> None:
    embedder = ClipEmbedder(clip_folder)
    image, masks = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8), np.zeros((3, 50, 70), bool)
    masks[0, 5:20, 5:30] = masks[1, 30:40, 40:70] = True  # and an empty one
    vectors = embedder.objects(image, masks)
    assert vectors.shape == (3, WIDTH) and embedder.objects(image, masks[:0]).shape == (0, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    words = embedder.texts(["a wheel", "beaver tooth grille"])
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
    assert (words @ vectors.T).shape == (2, 3)
    with pytest.raises(InputError, match="empty phrase"):
        embedder.texts([" "])
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json"):
        ClipEmbedder(clip_folder.parent)


RECIPE = """
model: lite
text_width: 24
loader_workers: 0
precision: fp32
device: cpu
curves: false
lr: 1.0e-2
warmup_steps: 1
freeze: [image_encoder.]
save_every: 100
phases:
  - {until_step: 3, image_size: 64, cells: 4, photos: 1, masks: 3, num_clicks: 1, num_empty: 1, min_area_px: 1}
"""


def test_a_model_learns_text_prompts_and_takes_phrases(clip_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "text.yaml"
    recipe.write_text(RECIPE)
    photos = list(open_dataset(write_discs(tmp_path / "data", 2)))
    with pytest.raises(OptionError, match="--set clip=FOLDER"):
        text_embedder(load_config(recipe, []))
    with pytest.raises(OptionError, match="set text_width=24"):
        text_embedder(load_config(recipe, [f"clip={clip_folder}", "text_width=7"]))
    trainer = Trainer(load_config(recipe, [f"clip={clip_folder}"]), photos, tmp_path / "run")
    before = trainer.sam.prompt_encoder.text_embed.weight.detach().clone()  # type: ignore[union-attr]
    trainer.run()
    assert not torch.equal(before, trainer.sam.prompt_encoder.text_embed.weight)  # type: ignore[union-attr]
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert len(log["rounds"]) == 3 and "point_iou" not in log["rounds"][0]
    sam = load_model(tmp_path / "run" / "model.safetensors", image_size=128)
    embedding = TorchSegmenter(sam).encode([np.zeros((64, 96, 3), np.uint8)])[0]
    vector, other = ClipEmbedder(clip_folder).texts(["a wheel", "the sky"])
    alone = decode_text(sam, embedding, vector)
    assert alone.predicted_iou.shape == (1, 3)  # one prompt, three candidates
    assert not torch.equal(decode_text(sam, embedding, other).low_res, alone.low_res)
    helped = decode_text(sam, embedding, vector, np.array([[40.0, 30.0]]), np.array([1]))
    assert helped.predicted_iou.shape == (1, 1)
    again = decode_text(sam, embedding, vector, np.array([[40.0, 30.0]]), np.array([1]), helped.low_res)
    assert not torch.equal(again.low_res, helped.low_res)
    with pytest.raises(CheckpointError, match="24 numbers, these have 3"):
        decode_text(sam, embedding, vector[:3])
    with pytest.raises(CheckpointError, match="know no text prompts"):
        decode_text(load_model("lite", image_size=128), embedding, vector)
