"""What exporting buys and costs: OpenVINO from our graph against the official encoder converted as is, and int8.

    python benchmarks/export.py openvino [--model vit_b] [--rounds 10]
    python benchmarks/export.py int8 --calibrate FOLDER --photos FOLDER [--form onnx|openvino] [--num-photos 100]

`openvino` runs both compiled encoders in turn, in bf16, on the same input and threads, and prints both medians, the
ratio of each pair's times, and how far the outputs are apart. Random weights: they do not change the time.

`int8` exports lite with an int8 encoder calibrated on one folder of tar shards (SA-1B layout) or photos, and compares
its masks with float32 on another: five clicks and two boxes a photo, IoU of float32's best candidate with the same
candidate of int8, and IoU of what each model itself would show.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from anymask import load_model
from anymask.cli.export import read_photos
from anymask.core.images import read_image
from anymask.core.types import PromptBatch, Segmenter
from anymask.data.readers import read_shards
from anymask.export.artefacts import export_folder
from anymask.export.openvino import _convert
from anymask.export.parity import mask_ious
from anymask.model.presets import build_sam
from anymask.predict.segmenter import TorchSegmenter
from anymask.runtime.segmenter import load_segmenter


class FixedSize(torch.nn.Module):
    """An encoder as it is, on one normalised square."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


def compare_openvino(name: str, rounds: int) -> None:
    import openvino
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    official = sam_model_registry[name]().eval()
    for key, parameter in official.named_parameters():
        if "rel_pos" in key or "pos_embed" in key:
            parameter.data.normal_(std=0.02)
    ours = build_sam(name)
    ours.load_state_dict(official.state_dict())
    x = torch.randn(1, 3, 1024, 1024)
    core, options = openvino.Core(), {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    compiled = {}
    for who, encoder in (("as is", official.image_encoder), ("ours", ours.image_encoder)):
        model = _convert(FixedSize(encoder), (x,), [list(x.shape)], ["input_image"], ["image_embeddings"])
        compiled[who] = core.compile_model(model, "CPU", options)
        print(f"{who}: compiled", flush=True)
    outputs = {who: run(x.numpy())[0] for who, run in compiled.items()}
    times: dict[str, list[float]] = {who: [] for who in compiled}
    for _ in range(rounds):
        for who, run in compiled.items():
            started = time.perf_counter()
            run(x.numpy())
            times[who].append(time.perf_counter() - started)
    for who, seconds in times.items():
        print(f"{who}: median {np.median(seconds):.2f} s, least {min(seconds):.2f} s")
    ratios = np.array(times["as is"]) / np.array(times["ours"])
    print(f"ours is {np.median(ratios):.2f} times as fast (median of {rounds} pairs)")
    spread = np.abs(outputs["ours"] - outputs["as is"]).max() / np.abs(outputs["as is"]).max()
    print(f"largest difference {spread:.1e} of the largest value")


def compare_int8(form: str, calibrate: Path, photos: Path, num_photos: int, num_calibration: int) -> None:
    sam = load_model("lite")
    exact = TorchSegmenter(sam)
    chosen = load_photos(photos, num_photos)
    with tempfile.TemporaryDirectory() as folder:
        _, parity = export_folder(sam, "lite", Path(folder), form, "int8", load_photos(calibrate, num_calibration))
        print(f"calibration photos: {parity}")
        int8 = load_segmenter(folder)
        same, shown, times = [], [], []
        for photo in chosen:
            a, b = answers(exact, photo), answers(int8, photo)
            times.append((a[1], b[1]))
            for x, y in zip(a[0], b[0]):
                same.append(mask_ious(x, y, 0.0, x.low_res.shape[-2:]))
                own = [m.low_res[torch.arange(len(m.low_res)), m.predicted_iou.argmax(1)] > 0 for m in (x, y)]
                union = (own[0] | own[1]).sum((1, 2))
                shown.append(((own[0] & own[1]).sum((1, 2)) / union.clamp(min=1)).numpy())
    print(f"{form} int8, {len(chosen)} photos, {sum(map(len, same))} masks")
    print(f"mean mask IoU with float32: same candidate {np.concatenate(same).mean():.4f}")
    print(f"                            as shown       {np.concatenate(shown).mean():.4f}")
    torch_s, int8_s = np.median(times, axis=0)
    print(f"encode, median: torch float32 {1e3 * torch_s:.0f} ms, int8 {1e3 * int8_s:.0f} ms")


def answers(segmenter: Segmenter, photo: np.ndarray) -> tuple[list, float]:
    started = time.perf_counter()
    embedding = segmenter.encode([photo])[0]
    seconds = time.perf_counter() - started
    height, width = embedding.frame.input_hw
    at = np.array([[0.5, 0.5], [0.25, 0.3], [0.75, 0.3], [0.3, 0.75], [0.7, 0.75]]) * (width, height)
    clicks = PromptBatch(at[:, None].astype(np.float32), np.ones((5, 1), np.float32))
    boxes = np.array([[0.2, 0.2, 0.8, 0.8], [0.05, 0.1, 0.5, 0.6]]) * (width, height, width, height)
    return [
        segmenter.decode(embedding, clicks, True),
        segmenter.decode(embedding, PromptBatch(boxes_xyxy=boxes.astype(np.float32)), True),
    ], seconds


def load_photos(folder: Path, count: int) -> list[np.ndarray]:
    """Photos evenly over a folder's tar shards, or over its pictures where it has none."""
    if not any(folder.glob("*.tar")):
        return read_photos(folder, count)
    encoded = [photo.encoded for photo in read_shards([folder])]
    return [read_image(encoded[i]) for i in np.linspace(0, len(encoded) - 1, count).astype(int)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["openvino", "int8"])
    parser.add_argument("--model", default="vit_b")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--form", default="onnx")
    parser.add_argument("--calibrate", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--num-photos", type=int, default=100)
    parser.add_argument("--num-calibration", type=int, default=64)
    given = parser.parse_args()
    if given.what == "openvino":
        compare_openvino(given.model, given.rounds)
    else:
        compare_int8(given.form, given.calibrate, given.photos, given.num_photos, given.num_calibration)


if __name__ == "__main__":
    main()
