"""`anymask export`: models as ONNX and OpenVINO files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Write models as ONNX and OpenVINO files, checked against torch.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="`lite` (inside the package), `vit_b`, `vit_l` or `vit_h`.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights of that model; any format.")]
Photos = Annotated[Path | None, typer.Option(help="Folder of photos to calibrate int8 on and to compare with torch.")]
MaxPhotos = Annotated[int, typer.Option(help="Take so many of them, evenly over the folder.")]
Opset = Annotated[int, typer.Option(help="ONNX operator set, 18 to 23.")]


@app.command("onnx")
def onnx_folder(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    model: Model = "lite",
    checkpoint: Checkpoint = None,
    precision: Annotated[str, typer.Option(help="`fp32`, or `int8` for the encoder, calibrated on photos.")] = "fp32",
    photos: Photos = None,
    max_photos: MaxPhotos = 64,
    opset: Opset = 18,
) -> None:
    """Encoder, prepare and decode as ONNX: for `--runtime onnx` and for the browser.

    Example: anymask export onnx -o lite-onnx
    """
    _folder(output, model, checkpoint, "onnx", precision, photos, max_photos, opset)


@app.command("openvino")
def openvino_folder(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    model: Model = "lite",
    checkpoint: Checkpoint = None,
    precision: Annotated[
        str, typer.Option(help="`fp16` weights, `fp32`, or `int8` for the encoder, calibrated on photos.")
    ] = "fp16",
    photos: Photos = None,
    max_photos: MaxPhotos = 64,
) -> None:
    """Encoder, prepare and decode as OpenVINO IR: for `--runtime openvino`.

    Example: anymask export openvino -o lite-openvino
    """
    _folder(output, model, checkpoint, "openvino", precision, photos, max_photos, 18)


@app.command()
def decoder(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file.")],
    model: Annotated[str, typer.Option("--model", "--model-type", help="As above; the official name works.")] = "lite",
    checkpoint: Checkpoint = None,
    return_single_mask: Annotated[
        bool, typer.Option("--return-single-mask", help="The best mask only, by the number of point slots.")
    ] = False,
    use_stability_score: Annotated[
        bool, typer.Option("--use-stability-score", help="Stability in place of the predicted IoU.")
    ] = False,
    return_extra_metrics: Annotated[
        bool, typer.Option("--return-extra-metrics", help="Stability and area of the full-size masks as well.")
    ] = False,
    gelu_approximate: Annotated[bool, typer.Option("--gelu-approximate", help="GELU by tanh.")] = False,
    upsample: Annotated[bool, typer.Option(help="Full-size masks in the graph; else low-resolution ones only.")] = True,
    quantize_out: Annotated[
        Path | None, typer.Option(help="Write a second file with uint8 weights here, too.")
    ] = None,
    opset: Opset = 18,
) -> None:
    """The decoder as one ONNX file with the official inputs and outputs, for any number of prompts and points.

    Example: anymask export decoder -o decoder.onnx --return-single-mask
    """
    from anymask.export.artefacts import export_decoder
    from anymask.export.onnx import DecoderOptions

    options = DecoderOptions(
        return_single_mask, use_stability_score, return_extra_metrics, gelu_approximate, upsample, opset
    )
    sam = _load(model, checkpoint)
    error = export_decoder(sam, model, output, options)
    print(f"{output}: {_megabytes(output)}, differs from torch by {error:.1e} of the largest logit")
    if quantize_out is not None:
        error = export_decoder(sam, model, quantize_out, options, quantize=True)
        print(f"{quantize_out}: {_megabytes(quantize_out)}, differs from torch by {error:.1e} of the largest logit")


@app.command()
def encoder(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file.")],
    model: Model = "lite",
    checkpoint: Checkpoint = None,
    input_form: Annotated[
        str, typer.Option("--input", help="`uint8` scaled photos, or `float32` normalised and padded ones.")
    ] = "uint8",
    opset: Opset = 18,
) -> None:
    """The image encoder as one ONNX file, `input_image` → `image_embeddings`.

    Example: anymask export encoder -o encoder.onnx
    """
    from anymask.export.artefacts import export_encoder

    error = export_encoder(_load(model, checkpoint), model, output, input_form, opset)
    print(f"{output}: {_megabytes(output)}, differs from torch by {error:.1e} of the largest value")


def _folder(
    output: Path, model: str, checkpoint: Path | None, form: str, precision: str, photos: Path | None, most: int,
    opset: int,
) -> None:  # fmt: skip
    from anymask.export.artefacts import export_folder

    pictures = read_photos(photos, most) if photos is not None else []
    manifest, parity = export_folder(_load(model, checkpoint), model, output, form, precision, pictures, opset)
    for files in manifest.files.values():
        for name in files:
            print(f"{output / name}: {_megabytes(output / name)}")
    print(parity)


def read_photos(folder: Path, most: int) -> list[Any]:
    """Up to `most` photos of a folder or of tar shards in it, evenly over them all."""
    from anymask.core.errors import OptionError
    from anymask.core.images import read_image
    from anymask.predict.sources import PHOTO_SUFFIXES

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise OptionError(f"{folder} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))}).")
    step = max(1.0, len(paths) / most)
    return [read_image(paths[int(i * step)]) for i in range(min(most, len(paths)))]


def _load(model: str, checkpoint: Path | None) -> Any:
    from anymask.weights.load import load_model

    return load_model(model, checkpoint=checkpoint)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
