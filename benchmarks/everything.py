"""`generate()` of the whole picture, ViT-B, 32×32 points: ours beside `segment_anything` and `transformers`.

    python benchmarks/everything.py [--photo FILE] [--points 32] [--rounds 1] [--only ours_bf16,official]

No official weights are at hand here, and random ones find nothing. So every implementation runs the ViT-B encoder with
the same random weights in full, and then goes on with the embedding that `lite` makes of the same photo and with
lite's trained decoder weights: the arithmetic of ViT-B, and masks of a real photo. Each runs in a process of its own;
a 4×4 grid warms it up. Peak memory is that of the process. Thresholds suit the decoder's own
predicted IoU, without lite's regard for stability. Of ours the time is split: what
encoding and decoding leave is filters, NMS, run lengths and the records. A last row is `anymask everything` with lite
itself, from shell prompt to files.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE = 1024
SPENT: dict[str, list[float]] = {"encode": [], "decode": []}  # seconds of our generator, call by call
THRESHOLDS = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.7, "stability_score_offset": 0.25}
NUM_THREADS = torch.get_num_threads()
NAMES = ("ours_fp32", "ours_bf16", "official", "transformers_bf16", "shell_lite")


class ViTThenLite(torch.nn.Module):
    """Runs `vit`, throws its result away, and gives lite's embedding of the same pixels."""

    img_size, stride = SIDE, 16

    def __init__(self, vit: torch.nn.Module, lite: torch.nn.Module) -> None:
        super().__init__()
        self.vit, self.lite, self.gradient_checkpointing = vit, lite, False

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        self.vit(x)
        small = torch.nn.functional.interpolate(x, (SIDE // 2, SIDE // 2), mode="area")
        return self.lite(small)


def decoder_state() -> dict[str, torch.Tensor]:
    """lite's prompt encoder and mask decoder."""
    from anymask import load_model

    state = load_model("lite").state_dict()
    return {k: v.float() for k, v in state.items() if not k.startswith("image_encoder.")}


def lite_encoder() -> torch.nn.Module:
    from anymask import load_model

    return load_model("lite").float().eval().image_encoder


def our_generator(precision: str, points: int) -> Any:
    from anymask import SamAutomaticMaskGenerator, build_sam, place

    sam = build_sam("vit_b")
    sam.load_state_dict({**sam.state_dict(), **decoder_state()})
    sam.image_encoder = ViTThenLite(sam.image_encoder, lite_encoder())
    generator = SamAutomaticMaskGenerator(place(sam.eval(), "cpu", precision), points, **THRESHOLDS)
    for name in SPENT:
        setattr(generator.segmenter, name, clocked(getattr(generator.segmenter, name), name))
    return generator.generate


def clocked(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same call, whose seconds are noted in SPENT; of one that goes on beside others its part of the time."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            is_alone = threading.current_thread() is threading.main_thread()
            SPENT[name].append((time.perf_counter() - started) / (1 if is_alone else NUM_THREADS))

    return timed


def official_generator(points: int) -> Any:
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    sam = sam_model_registry["vit_b"]().eval()
    sam.load_state_dict({**sam.state_dict(), **decoder_state()})
    sam.image_encoder = ViTThenLite(sam.image_encoder, lite_encoder())
    return SamAutomaticMaskGenerator(sam, points, **THRESHOLDS).generate


def transformers_generator(points: int) -> Any:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamVisionConfig
    from transformers.pipelines import MaskGenerationPipeline

    from anymask import build_sam
    from anymask.weights.remap import to_huggingface

    state = {**build_sam("vit_b").state_dict(), **decoder_state()}
    model = SamModel(SamConfig(vision_config=SamVisionConfig(global_attn_indexes=[2, 5, 8, 11]))).eval()
    model.load_state_dict(to_huggingface(state), strict=False)
    vit, both = model.vision_encoder, ViTThenLite(model.vision_encoder, lite_encoder())

    class Vision(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor, **_: Any) -> Any:
            from transformers.models.sam.modeling_sam import SamVisionEncoderOutput

            return SamVisionEncoderOutput(last_hidden_state=both(pixel_values))

    both.vit = vit
    model.vision_encoder = Vision()
    model.vision_encoder.inner = both
    model.to(torch.bfloat16)
    processor = SamImageProcessor()
    merge = processor.post_process_for_mask_generation

    def merge_in_float32(masks: Any, scores: torch.Tensor, *rest: Any) -> Any:
        return merge(masks, scores.float(), *rest)  # torchvision's NMS refuses bf16 scores beside float32 boxes

    processor.post_process_for_mask_generation = merge_in_float32
    pipe = MaskGenerationPipeline(model=model, image_processor=processor, device="cpu")

    def generate(photo: np.ndarray) -> list[dict[str, Any]]:
        from PIL import Image

        result = pipe(Image.fromarray(photo), points_per_crop=points, points_per_batch=64, **THRESHOLDS)
        return [{"segmentation": m, "predicted_iou": float(s)} for m, s in zip(result["masks"], result["scores"])]

    return generate


def serve(name: str, photo: Path, points: int, rounds: int, out: Path) -> None:
    """Generate in this process; seconds, peak memory and records."""
    torch.manual_seed(0)
    makers = {
        "ours_fp32": lambda n: our_generator("fp32", n),
        "ours_bf16": lambda n: our_generator("bf16", n),
        "official": official_generator,
        "transformers_bf16": transformers_generator,
    }
    image = np.load(photo)
    with torch.no_grad():
        makers[name](4)(image)
        generate, seconds, spent = makers[name](points), [], []
        for _ in range(rounds):
            SPENT.update(encode=[], decode=[])
            started = time.perf_counter()
            records = generate(image)
            seconds.append(time.perf_counter() - started)
            spent.append({name: sum(calls) for name, calls in SPENT.items()})
    masks = np.array([np.asarray(r["segmentation"], dtype=bool) for r in records]).reshape(len(records), -1)
    np.savez_compressed(
        out,
        masks=np.packbits(masks, axis=1),
        iou=np.array([r["predicted_iou"] for r in records]),
        stability=np.array([r.get("stability_score", 0.0) for r in records]),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "num_masks": len(records), "spent": spent}))


def from_shell(image: np.ndarray, points: int, rounds: int, folder: Path) -> dict[str, Any]:
    """`anymask everything` with lite, each time into an empty folder; one run before it fills the file cache."""
    from anymask.core.images import write_image

    photo, seconds = folder / "photo.png", []
    write_image(photo, image)
    for turn in range(rounds + 1):
        out = folder / f"everything-{turn}"
        command = [sys.executable, "-m", "anymask", "everything", str(photo), "-o", str(out)]
        started = time.perf_counter()
        subprocess.run([*command, "--points-per-side", str(points)], check=True, capture_output=True)
        if turn:
            seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "num_masks": len(json.loads((out / "photo.json").read_text())["annotations"])}


def shares(row: dict[str, Any]) -> str:
    """Of the run with the median time: encoding, decoding, and the share of all the rest."""
    total, spent = sorted(zip(row["seconds"], row["spent"]), key=lambda run: run[0])[len(row["seconds"]) // 2]
    rest = total - sum(spent.values())
    return (
        f"encode {spent['encode']:.1f} s, decode {spent['decode']:.1f} s, "
        f"filters, NMS and run lengths {rest:.2f} s = {100 * rest / total:.1f} %"
    )


def matched(ours: Path, theirs: Path) -> str:
    """How many of their masks have one of ours with IoU ≥ 0.99, and the largest differences of the scores."""
    a, b = np.load(ours), np.load(theirs)
    x, y = (np.unpackbits(f["masks"], axis=1).astype(np.float32) for f in (a, b))
    shared = y @ x.T
    iou = shared / np.maximum(y.sum(1)[:, None] + x.sum(1)[None] - shared, 1)
    best, value = iou.argmax(1), iou.max(1)
    good = value >= 0.99
    d_iou = np.abs(a["iou"][best] - b["iou"])[good].max(initial=0)
    d_stable = np.abs(a["stability"][best] - b["stability"])[good].max(initial=0)
    return (
        f"{good.sum()} of {len(y)} official masks matched at IoU ≥ 0.99 (lowest {value.min(initial=1):.3f}), "
        f"{len(x)} ours; largest difference of predicted IoU {d_iou:.1e}, of stability {d_stable:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo")
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, Path(args.photo), args.points, args.rounds, args.out)
        return
    from anymask.core.images import read_image

    if args.photo:
        image = read_image(args.photo)
    else:
        from skimage import data

        image = data.coffee()
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.npy"
        np.save(photo, image)
        results = {}
        for name in args.only.split(","):
            if name == "shell_lite":
                row = from_shell(image, args.points, args.rounds, Path(folder))
                middle = statistics.median(row["seconds"])
                print(f"anymask everything, lite, shell to files: {middle:.1f} s, {row['num_masks']} masks", flush=True)
                continue
            command = [sys.executable, __file__, "--serve", name, "--photo", str(photo)]
            command += ["--points", str(args.points), "--rounds", str(args.rounds), "--out", f"{folder}/{name}.npz"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
            row = results[name]
            row["median"] = statistics.median(row["seconds"])
            print(
                f"{name:20} {row['median']:8.1f} s   peak {row['peak_mib']:6.0f} MiB   {row['num_masks']} masks",
                flush=True,
            )
            if name.startswith("ours"):
                print(f"  {shares(row)}", flush=True)
        for theirs in ("official", "transformers_bf16"):
            for ours in ("ours_fp32", "ours_bf16"):
                if ours in results and theirs in results:
                    a, b = results[ours], results[theirs]
                    speed, memory = b["median"] / a["median"], a["peak_mib"] / b["peak_mib"]
                    print(f"{ours} vs {theirs}: {speed:.1f}× faster, {memory:.2f} of its peak memory")
        if {"ours_fp32", "official"} <= results.keys():
            print(matched(Path(folder) / "ours_fp32.npz", Path(folder) / "official.npz"))


if __name__ == "__main__":
    main()
