"""Proves that any weights file becomes a working model or a clear refusal, and that no file can run code.

Key tables are compared with the official package, whose models are built without filling their memory. Files
are written with a miniature "vit_b" (2 blocks of width 32), so that every test is quick.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anymask.core.errors import CheckpointError, OptionError
from anymask.model.presets import VIT_SIZES, ViTSize
from anymask.model.sam import Sam
from anymask.weights import catalog
from anymask.weights.load import (
    load_model,
    load_pretrained,
    read_state_dict,
    recognise,
    sam_model_registry,
    save_model,
)
from anymask.weights.read import OLD_TORCH_MAGIC, read_weights
from anymask.weights.recognise import _NoRandomStart, build_blank
from anymask.weights.remap import GAUSSIAN, to_huggingface

State = dict[str, torch.Tensor]


@functools.cache
def random_state(name: str) -> State:
    """Small random weights; made once, the tests get copies."""
    generator = torch.Generator().manual_seed(0)
    shapes = {key: value.shape for key, value in build_blank(name, None, 2).state_dict().items()}
    return {key: torch.rand(shape, generator=generator) * 0.02 for key, shape in shapes.items()}


def filled(name: str, image_size: int | None = None) -> Sam:
    """A model with small random weights."""
    sam = build_blank(name, image_size, 2)
    sam.load_state_dict(random_state(name))
    return sam


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Sam:
    """A miniature that goes by the name vit_b."""
    monkeypatch.setitem(VIT_SIZES, "vit_b", ViTSize(32, 2, 2, (1,)))
    return filled("vit_b")


@pytest.fixture
def state(tiny: Sam) -> State:
    return dict(tiny.state_dict())


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(("name", "count"), [("vit_b", 314), ("vit_l", 482), ("vit_h", 594)])
def test_key_tables_are_the_official_ones(name: str, count: int) -> None:
    official = pytest.importorskip("segment_anything")
    with _NoRandomStart():
        reference = official.sam_model_registry[name]().state_dict()
    ours = build_blank(name, None, 2).state_dict()
    assert len(ours) == count
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in reference.items()}
    assert recognise(ours) == (name, 2)


@pytest.mark.parametrize("depth", [2, 3])
def test_lite_is_recognised_with_its_decoder_depth(depth: int) -> None:
    assert recognise(build_blank("lite", None, depth).state_dict()) == ("lite", depth)


def test_loading_leaves_the_random_generator_alone(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    before = torch.get_rng_state()
    load_model(tmp_path / "sam.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_official_file_loads(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    sam = load_model(tmp_path / "sam.pth")
    assert same(dict(sam.state_dict()), state)
    assert not sam.training
    for parameter in sam.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.is_contiguous()
        assert parameter.requires_grad
        assert parameter.device.type == "cpu"
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_a_loaded_model_predicts_as_the_saved_one(tiny: Sam, tmp_path: Path) -> None:
    save_model(tiny, tmp_path / "m.safetensors", "vit_b")
    loaded = load_model(tmp_path / "m.safetensors", image_size=64)
    embedding = torch.randn(1, 256, 4, 4)
    prompt = (torch.tensor([[[9.0, 20.0]]]), torch.tensor([[1]]))
    same_size = build_blank("vit_b", 64, 2)
    same_size.load_state_dict(tiny.state_dict())
    expected = same_size.decode(embedding, prompt, None, None, True)
    got = loaded.decode(embedding, prompt, None, None, True)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_loaded_model_does_not_hang_on_its_file(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sam.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    sam = load_model(path)
    with path.open("rb+") as file:  # overwritten in place and cut off: mapped tensors would crash
        file.write(bytes(path.stat().st_size))
        file.truncate(10)
    assert same(dict(sam.state_dict()), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": s, "lr": 0.1},
        lambda s: {"step": 9, "model": {k: v * 0 for k, v in s.items()}, "average": s, "optimizer": {}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    ],
    ids=["model", "state_dict", "average first", "module", "model of module of compiled"],
)
def test_training_checkpoints_are_opened(state: State, tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "state.pt")
    assert same(read_state_dict(tmp_path / "state.pt"), state)


def test_an_old_style_torch_file_loads(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "old.pth"), state)


def test_our_format_carries_metadata(tiny: Sam, tmp_path: Path) -> None:
    save_model(tiny, tmp_path / "m.safetensors", "vit_b", {"trained_on": "toys", "steps": 7})
    with safe_open(str(tmp_path / "m.safetensors"), "pt") as file:
        assert file.metadata() == {
            "format": "anymask",
            "version": "1",
            "preset": "vit_b",
            "image_size": "1024",
            "decoder_depth": "2",
            "trained_on": "toys",
            "steps": "7",
        }
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_image_size_is_remembered(tiny: Sam, tmp_path: Path) -> None:
    small = filled("vit_b", 128)
    save_model(small, tmp_path / "m.safetensors", "vit_b")
    assert load_model(tmp_path / "m.safetensors").image_encoder.img_size == 128
    assert load_model(tmp_path / "m.safetensors", image_size=256).image_encoder.img_size == 256
    with pytest.raises(OptionError, match="image_size must be a number of pixels"):
        load_model(tmp_path / "m.safetensors", image_size=0)


def test_half_precision_is_half_the_file_and_exact_positions(tiny: Sam, tmp_path: Path) -> None:
    save_model(tiny, tmp_path / "full.safetensors", "vit_b")
    save_model(tiny, tmp_path / "half.safetensors", "vit_b", half=True)
    full, half = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("full", "half"))
    assert half < 0.55 * full
    stored = read_weights(tmp_path / "half.safetensors").state
    assert {v.dtype for k, v in stored.items() if k != GAUSSIAN} == {torch.float16}
    loaded = load_model(tmp_path / "half.safetensors").state_dict()
    assert {v.dtype for v in loaded.values()} == {torch.float32}
    assert torch.equal(loaded[GAUSSIAN], tiny.state_dict()[GAUSSIAN])
    for key, value in tiny.state_dict().items():
        assert torch.allclose(loaded[key], value, rtol=1e-3, atol=1e-6)


def test_half_precision_refuses_what_it_cannot_hold(tiny: Sam, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny.mask_decoder.iou_token.weight.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"float16 cannot hold.*mask_decoder\.iou_token\.weight"):
        save_model(tiny, tmp_path / "half.safetensors", "vit_b", half=True)
    assert list(tmp_path.iterdir()) == []


def test_saving_under_a_wrong_name_or_into_nowhere(tiny: Sam, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="asked to save vit_l, but the model is vit_b"):
        save_model(tiny, tmp_path / "m.safetensors", "vit_l")
    with pytest.raises(CheckpointError, match="Does the folder exist"):
        save_model(tiny, tmp_path / "none" / "m.safetensors", "vit_b")
    with pytest.raises(OptionError, match="preset are set by anymask"):
        save_model(tiny, tmp_path / "m.safetensors", "vit_b", {"preset": "mine"})


def test_a_newer_format_asks_for_an_upgrade(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "m.safetensors", {"format": "anymask", "version": "2"})
    with pytest.raises(CheckpointError, match=r"format version '2'.*Upgrade: pip install -U anymask"):
        read_state_dict(tmp_path / "m.safetensors")


def test_broken_metadata(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "m.safetensors", {"format": "anymask", "version": "1", "image_size": "big"})
    with pytest.raises(CheckpointError, match="image_size 'big'"):
        load_model(tmp_path / "m.safetensors")


# ---------- Hugging Face folders


def write_folder(folder: Path, state: State, shards: int = 1, kind: str = "sam") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    theirs = to_huggingface(state)
    if shards == 1:
        save_file(theirs, folder / "model.safetensors")
        return folder
    names = {key: f"model-{i % shards + 1}-of-{shards}.safetensors" for i, key in enumerate(theirs)}
    for name in set(names.values()):
        save_file({k: v for k, v in theirs.items() if names[k] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_a_hugging_face_folder_loads(state: State, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", state)
    assert same(read_state_dict(folder), state)
    assert same(read_state_dict(folder / "model.safetensors"), state)
    assert same(dict(load_model(folder).state_dict()), state)


def test_a_sharded_folder_loads(state: State, tmp_path: Path) -> None:
    assert same(read_state_dict(write_folder(tmp_path / "hf", state, shards=3)), state)


def test_a_folder_with_pytorch_model_bin_loads(state: State, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", state)
    (folder / "model.safetensors").unlink()
    torch.save(to_huggingface(state), folder / "pytorch_model.bin")
    assert same(read_state_dict(folder), state)


def test_a_missing_shard_is_named(state: State, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", state, shards=2)
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks the shards model-2-of-2\.safetensors"):
        read_state_dict(folder)


def test_a_shard_outside_its_folder_is_refused(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "outside.safetensors")
    folder = write_folder(tmp_path / "hf", state, shards=2)
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks the shards \.\./outside\.safetensors"):
        read_state_dict(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "without config.json"),
        ({"config.json": '{"model_type": "sam"}'}, "no weights; expected model.safetensors"),
        ({"config.json": '{"model_type": "sam2_video"}'}, "'sam2_video' model, expected model_type 'sam'"),
        ({"config.json": "{"}, "is not JSON"),
        ({"config.json": "[]"}, "holds a list, expected a JSON object"),
        ({"config.json": '{"model_type": "sam"}', "model.safetensors.index.json": "{}"}, "no weight_map"),
    ],
)
def test_folders_that_are_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path)


# ---------- refusals


class RunsCode:
    """Unpickling this would create the file."""

    def __init__(self, witness: Path) -> None:
        self.command = f"touch {witness}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("style", ["torch zip", "torch old", "plain pickle", "protocol 0"])
def test_a_pickle_with_code_is_refused_and_not_run(style: str, tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "evil.pth"
    evil = {"image_encoder.pos_embed": torch.zeros(1), "x": RunsCode(witness)}
    if style.startswith("torch"):
        torch.save(evil, path, _use_new_zipfile_serialization=style == "torch zip")
    else:
        path.write_bytes(pickle.dumps(RunsCode(witness), protocol=0 if style == "protocol 0" else 4))
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert not witness.exists()
    if style != "protocol 0":  # no PyTorch file looks like that one: not even opened
        assert "was refused: it is a pickle that may hold code" in str(caught.value)
        assert "nothing was run" in str(caught.value)
    assert os.system(f"touch {witness}") == 0  # the test itself can tell
    assert witness.exists()


def test_a_pickled_module_says_what_to_do(tiny: Sam, tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"anymask\.model\.sam\.Sam.*state_dict\(\) with torch\.save"):
        load_model(tmp_path / "whole.pt")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("keep", [0.5, 0.999, 40])
def test_a_truncated_file(state: State, tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"sam.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"broken or cut short.*Fetch it again"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>login</html>", "neither a PyTorch nor a safetensors file .*web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        (OLD_TORCH_MAGIC + b"garbage", "broken or cut short"),
        (b"PK\x03\x04garbage", "broken or cut short"),
        (b"\xff" * 8 + b"{}", "broken or cut short"),
        (pickle.dumps([1, 2]), "was refused: it is a pickle"),
    ],
)
def test_files_that_hold_no_weights(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected names to tensors"),
        ({"epoch": 3, "best": 0.5}, "entries that are no tensors: epoch, best"),
        ({}, "nothing in it"),
        ({"model": {"a": 1}}, "entries that are no tensors: a"),
        ({"weight": torch.zeros(2)}, r"not the weights of a Segment Anything.*found 1 tensors \(weight"),
    ],
)
def test_torch_files_that_hold_something_else(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "x.pth")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        load_model(tmp_path / "none.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="is not a file"):
        load_model(tmp_path / "pipe.pth")


def test_a_size_nobody_knows(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIT_SIZES, "vit_b", ViTSize(768, 12, 12, (2, 5, 8, 11)))
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=r"width 32 with 2 blocks; known .*vit_b 768×12"):
        load_model(tmp_path / "sam.pth")


def test_another_size_than_asked_for(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=r"holds vit_b weights, you asked for vit_l; use --model vit_b"):
        load_model("vit_l", checkpoint=tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=r"you asked for vit_h"):
        sam_model_registry["default"](checkpoint=tmp_path / "sam.pth")


def test_all_misfits_are_in_one_message(state: State, tmp_path: Path) -> None:
    del state["image_encoder.neck.0.weight"], state["mask_decoder.iou_token.weight"]
    state["mask_decoder.hf_token.weight"] = torch.zeros(1, 256)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 128)
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "sam.pth")
    message = str(caught.value)
    assert "2 missing:\n    image_encoder.neck.0.weight (256, 32, 1, 1)\n    mask_decoder.iou_to" in message
    assert "1 unexpected:\n    mask_decoder.hf_token.weight (1, 256)" in message
    assert "prompt_encoder.no_mask_embed.weight: expected (1, 256), got (1, 128)" in message


# ---------- names and the registry


def test_names(tiny: Sam, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="Run: anymask models pull vit_b"):
        load_model("vit_b")
    path = catalog.local_path(catalog.find_entry("vit_b"))
    path.parent.mkdir()
    torch.save(state, path)
    assert same(dict(load_model("vit_b").state_dict()), state)
    assert same(dict(load_pretrained("vit_b").state_dict()), state)
    with pytest.raises(OptionError, match=r"Did you mean 'vit_b'"):
        load_model("vit-b")
    with pytest.raises(OptionError, match="unknown model"):
        load_model("resnet", checkpoint=path)


def test_lite_comes_from_the_package_or_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lite.safetensors"
    monkeypatch.setattr("anymask.weights.catalog.__file__", str(tmp_path / "catalog.py"))
    for missing in (load_model, load_pretrained, sam_model_registry["lite"]):
        with pytest.raises(CheckpointError, match=r"no weights for lite: lite\.safetensors should be part"):
            missing()
    lite = filled("lite")
    save_model(lite, path, "lite", half=True)
    assert load_model().image_encoder.img_size == 512
    loaded = sam_model_registry["lite"](image_size=256)
    assert loaded.image_encoder.img_size == 256
    assert torch.equal(loaded.state_dict()[GAUSSIAN], lite.state_dict()[GAUSSIAN])


def test_the_registry_is_the_official_one_with_lite(tiny: Sam, tmp_path: Path) -> None:
    assert list(sam_model_registry) == ["default", "vit_h", "vit_l", "vit_b", "lite"]
    sam = sam_model_registry["vit_b"]()
    assert sam.image_encoder.img_size == 1024
    assert not sam.training
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    again = sam_model_registry["vit_b"](checkpoint=str(tmp_path / "sam.pth"), image_size=128)
    assert again.image_encoder.img_size == 128
    assert same(dict(again.state_dict()), dict(sam.state_dict()))


def test_an_unknown_registry_name_lists_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"Did you mean 'vit_b'"):
        sam_model_registry["vitb"]
    with pytest.raises(KeyError):
        sam_model_registry["vitb"]
    assert "vitb" not in sam_model_registry
