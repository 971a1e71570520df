"""Proves that every format can be turned into every other and back without changing a value.

What is written as official opens in `torch.load`, what is written as Hugging Face in transformers itself.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from anymask.cli.models import app
from anymask.core.errors import AnymaskError, CheckpointError, OptionError
from anymask.model.presets import VIT_SIZES, ViTSize
from anymask.weights.load import load_model, read_state_dict, save_model
from anymask.weights.recognise import build_blank
from anymask.weights.save import convert

State = dict[str, torch.Tensor]
FORMATS = {"pth": "sam.pth", "safetensors": "sam.safetensors", "folder": "sam_hf"}


@functools.cache
def random_state() -> State:
    blank = build_blank("vit_b", None, 2).state_dict()
    return {key: torch.rand(value.shape) for key, value in blank.items()}


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """A miniature that goes by the name vit_b."""
    monkeypatch.setitem(VIT_SIZES, "vit_b", ViTSize(32, 2, 2, (1,)))
    return dict(random_state())


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_round_trips(first: str, second: str, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "official.pth")
    one, two = tmp_path / FORMATS[first], tmp_path / f"again_{FORMATS[second]}"
    convert(tmp_path / "official.pth", one)
    convert(one, two)
    assert same(read_state_dict(two), state)


def test_the_official_file_is_a_plain_state_dict(state: State, tmp_path: Path) -> None:
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "run.pt")
    convert(tmp_path / "run.pt", tmp_path / "sam.pth")
    loaded = torch.load(tmp_path / "sam.pth", weights_only=True)
    assert type(loaded) is dict
    assert same(loaded, state)


@pytest.mark.parametrize("decoder_depth", [2, 3])
def test_transformers_opens_the_folder(state: State, tmp_path: Path, decoder_depth: int) -> None:
    transformers = pytest.importorskip("transformers")
    state = {
        key: torch.rand(value.shape)
        for key, value in build_blank("vit_b", None, decoder_depth).state_dict().items()
    }
    torch.save(state, tmp_path / "official.pth")
    convert(tmp_path / "official.pth", tmp_path / "hf")
    model, report = transformers.SamModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()), report
    model.save_pretrained(tmp_path / "theirs")
    assert same(read_state_dict(tmp_path / "theirs"), state)
    assert type(transformers.SamProcessor.from_pretrained(tmp_path / "hf")).__name__ == "SamProcessor"


def test_metadata_and_image_size_survive(state: State, tmp_path: Path) -> None:
    sam = build_blank("vit_b", 128, 2)
    sam.load_state_dict(state)
    save_model(sam, tmp_path / "a.safetensors", "vit_b", {"trained_on": "toys"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", half=True)
    assert load_model(tmp_path / "b.safetensors").image_encoder.img_size == 128
    output = CliRunner().invoke(app, ["info", str(tmp_path / "b.safetensors")]).output
    assert "metadata trained_on:     toys" in output
    assert "float16, float32" in output


def test_a_file_can_be_converted_onto_itself(state: State, tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    torch.save(state, path)  # told apart by content, not by suffix
    convert(path, path)
    convert(path, path)
    assert same(read_state_dict(path), state)


def test_what_cannot_be_written(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(OptionError, match=r"expected \.safetensors, \.pth, \.pt, or a folder"):
        convert(tmp_path / "sam.pth", tmp_path / "sam.onnx")
    with pytest.raises(OptionError, match=r"half precision is for \.safetensors"):
        convert(tmp_path / "sam.pth", tmp_path / "half.pth", half=True)
    with pytest.raises(OptionError, match="create its parent first"):
        convert(tmp_path / "sam.pth", tmp_path / "none" / "hf")
    (tmp_path / "taken").write_text("")
    with pytest.raises(OptionError, match="taken is a file"):
        convert(tmp_path / "sam.pth", tmp_path / "taken")
    save_model(build_blank("vit_b", 128, 2), tmp_path / "small.safetensors", "vit_b")
    with pytest.raises(OptionError, match="no 128-pixel form"):
        convert(tmp_path / "small.safetensors", tmp_path / "hf")
    save_model(build_blank("lite", None, 2), tmp_path / "lite.safetensors", "lite")
    with pytest.raises(OptionError, match="no class for lite"):
        convert(tmp_path / "lite.safetensors", tmp_path / "hf")


def test_incomplete_weights_are_not_passed_on(state: State, tmp_path: Path) -> None:
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="1 missing"):
        convert(tmp_path / "sam.pth", tmp_path / "sam.safetensors")
    assert not (tmp_path / "sam.safetensors").exists()


def test_cli_info_and_convert(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    run = CliRunner().invoke
    result = run(app, ["convert", str(tmp_path / "sam.pth"), str(tmp_path / "sam.safetensors")])
    assert result.exit_code == 0, result.output
    assert "vit_b:" in result.output
    output = run(app, ["info", str(tmp_path / "sam.safetensors")]).output
    for expected in ("anymask", "vit_b", "float32", "metadata image_size:     1024", "sha256"):
        assert expected in output
    parameters = sum(p.numel() for p in build_blank("vit_b", None, 2).parameters())
    assert f"{parameters:,}" in output


def test_cli_errors_are_ours(tmp_path: Path) -> None:
    for arguments in (["info", "none.pth"], ["convert", "none.pth", "x.safetensors"], ["pull", "none"]):
        assert isinstance(CliRunner().invoke(app, arguments).exception, AnymaskError)
