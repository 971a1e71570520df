"""Proves: OpenVINO folders, also of ViT encoders with windows and folded attention, compute what torch does, with and
without mask prompts; the ViT encoder as ONNX does so too; int8 stays near; the command line runs an exported folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import OptionError
from anymask.core.types import PromptBatch
from anymask.export.artefacts import export_encoder, export_folder
from anymask.export.cache import exported_segmenter
from anymask.export.parity import compare, plain_photos
from anymask.model.image_encoder import ImageEncoderViT
from anymask.model.presets import sam_around
from anymask.model.sam import Sam
from anymask.predict.segmenter import TorchSegmenter
from anymask.runtime.manifest import read_manifest
from anymask.runtime.segmenter import ExportedSegmenter, open_backend


@pytest.fixture(scope="module")
def vit() -> Sam:
    """A ViT of two blocks, one windowed with padding and one global, on 128 pixels."""
    torch.manual_seed(4)
    encoder = ImageEncoderViT(
        128, embed_dim=32, depth=2, num_heads=2, window_size=5, global_attn_indexes=(1,), table_size=128
    )
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return sam_around(encoder).eval()


@pytest.fixture(scope="module")
def folder(vit: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    export_folder(vit, "vit_tiny", folder, "openvino", "fp32")
    return folder


def test_openvino_equals_torch(vit: Sam, folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.form, manifest.side, manifest.embedding_shape) == ("openvino", 128, (256, 8, 8))
    exported = ExportedSegmenter(open_backend(folder, manifest, precision="f32"), manifest)
    eager = TorchSegmenter(vit)
    embedding = eager.encode([plain_photos()[0]])[0]
    assert np.allclose(exported.encode([plain_photos()[0]])[0].features, embedding.features, atol=1e-4)
    logits = 4 * torch.randn(2, 1, *exported.low_res_hw, generator=torch.Generator().manual_seed(0))
    boxes = np.float32([[5, 6, 50, 40], [30, 2, 60, 60]])
    for masks in (None, logits):
        given = PromptBatch(np.float32([[[20, 30]], [[9, 9]]]), np.float32([[1], [0]]), boxes, masks)
        a, b = (s.decode(embedding, given, True) for s in (eager, exported))
        np.testing.assert_allclose(b.low_res, a.low_res, atol=1e-4 * float(a.low_res.abs().max()))
        np.testing.assert_allclose(b.predicted_iou, a.predicted_iou, atol=1e-4)


def test_half_weights_take_half_the_room(vit: Sam, folder: Path, tmp_path: Path) -> None:
    export_folder(vit, "vit_tiny", tmp_path, "openvino", "fp16")
    half, full = (sum(p.stat().st_size for p in f.glob("*.bin")) for f in (tmp_path, folder))
    assert half < 0.6 * full


@pytest.mark.parametrize("form", ["uint8", "float32"])
def test_vit_encoder_as_onnx_equals_torch(vit: Sam, tmp_path: Path, form: str) -> None:
    path = tmp_path / "encoder.onnx"
    assert export_encoder(vit, "vit_tiny", path, form) < 1e-4
    (given,) = onnxruntime.InferenceSession(path).get_inputs()
    assert given.name == "input_image"
    assert given.shape == (["batch", "height", "width", 3] if form == "uint8" else ["batch", 3, 128, 128])


def test_int8_stays_near(vit: Sam, tmp_path: Path) -> None:
    import openvino

    from anymask.export.openvino import encoder_model
    from anymask.export.quantize import calibration_inputs, quantize_openvino_encoder

    inputs = calibration_inputs(plain_photos() * 4, 128)
    model = quantize_openvino_encoder(encoder_model(vit), inputs, True)
    assert any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    rough = openvino.Core().compile_model(model, "CPU")(inputs[0])[0]
    exact = TorchSegmenter(vit).encode([plain_photos()[0]])[0].features.numpy()
    assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.95


def test_the_command_line_runs_a_folder(folder: Path, tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "p.png")
    words = ["--runtime", "openvino", "--checkpoint", str(folder)]
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "p.png"), "--point", "90,60", "--json", *words])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["objects"][0]["candidates"]) == 3
    out = tmp_path / "out"
    grid = ["--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0", "--no-overlays"]
    done = CliRunner().invoke(app, ["everything", str(tmp_path / "p.png"), "-o", str(out), *grid, *words])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "p.json").read_text())["annotations"]


def test_wrong_runtimes_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"unknown runtime 'tensorrt'.*torch, onnx, openvino"):
        exported_segmenter("lite", None, "tensorrt")
    with pytest.raises(OptionError, match="--runtime openvino"):
        exported_segmenter("lite", folder, "onnx")
    with pytest.raises(OptionError, match="--device cuda"):
        exported_segmenter("lite", folder, "openvino", "cuda")


def test_first_use_exports_to_the_cache_and_the_second_reuses_it(
    vit: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYMASK_HOME", str(tmp_path))
    monkeypatch.setattr("anymask.weights.load.load_model", lambda *_, **__: vit)
    made = exported_segmenter("lite", None, "openvino")
    assert compare(TorchSegmenter(vit), made, plain_photos()[:1]).mask_iou > 0.9
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    exported_segmenter("lite", None, "openvino")
    assert times and times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
