"""`anymask everything`: photos in, all their masks out."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from anymask.cli.everything_runs import Run, report, run_files, run_shards
from anymask.core.errors import InputError, unknown_name
from anymask.text.choice import TEXT_MODEL

ENGINES = ("local", "ray")


def everything(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders, globs in quotes, tar shards, videos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the masks; may exist.")] = Path(
        "anymask-output"
    ),
    format_name: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="sa1b, sa1b-shards, coco, coco_polygons, yolo, labelme, cvat, label_studio, png …"
        ),
    ] = "sa1b",
    model: Annotated[str, typer.Option(help="`lite` (inside the package), `vit_b`, `vit_l` or `vit_h`.")] = "lite",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of that model; any format.")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `mps`.")] = "auto",
    precision: Annotated[str, typer.Option(help="`auto`, `fp32` or `bf16`; auto: bf16 where native.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="`torch`, `onnx` or `openvino`; --checkpoint may be a folder of `anymask export`.")
    ] = "torch",
    preset: Annotated[
        str | None,
        typer.Option(help="`official`, `lite` (for that model the default), or `paper` (app. B: crops, cleaning)."),
    ] = None,
    points_per_side: Annotated[int | None, typer.Option(help="The grid has this many points squared; 32.")] = None,
    points_per_batch: Annotated[int | None, typer.Option(help="Points decoded together, at most; 64.")] = None,
    pred_iou_thresh: Annotated[float | None, typer.Option(help="Keep predicted IoUs above this; 0.88.")] = None,
    stability_score_thresh: Annotated[float | None, typer.Option(help="Keep masks as stable as this; 0.95.")] = None,
    stability_score_offset: Annotated[float | None, typer.Option(help="Shift of logits testing that; 1.0.")] = None,
    box_nms_thresh: Annotated[float | None, typer.Option(help="Box IoU above which the worse mask goes; 0.7.")] = None,
    crop_n_layers: Annotated[int | None, typer.Option(help="Layers of crops: 4, 16, … of them; 0.")] = None,
    crop_nms_thresh: Annotated[float | None, typer.Option(help="The same between crops; 0.7.")] = None,
    crop_overlap_ratio: Annotated[float | None, typer.Option(help="Share of the shorter side; 0.34.")] = None,
    crop_n_points_downscale_factor: Annotated[int | None, typer.Option(help="Coarser grids by layer; 1.")] = None,
    min_mask_region_area: Annotated[float | None, typer.Option(help="Clean holes, islands under this px; 0.")] = None,
    max_mask_region_area: Annotated[float | None, typer.Option(help="Drop masks over this many pixels.")] = None,
    max_coverage: Annotated[float | None, typer.Option(help="Drop masks of this share of the photo up.")] = None,
    granularity: Annotated[str | None, typer.Option(help="all, whole, part or subpart of a point.")] = None,
    zoom: Annotated[
        bool | None, typer.Option("--zoom", help="Draw small masks again from crops around them; one encoding each.")
    ] = None,
    coarse_first: Annotated[
        bool | None,
        typer.Option("--coarse-first/--every-point", help="Decode in full only points that look promising; lite: yes."),
    ] = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds for a photo; then take what there is.")] = None,
    overlays: Annotated[
        bool | None, typer.Option("--overlays/--no-overlays", help="Draw pictures and a contact sheet; shards: never.")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Work tile by tile, of this many pixels squared: for very large pictures.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Pixels by which tiles overlap.")] = 128,
    every: Annotated[int, typer.Option(help="Of a video take each so-manieth frame.")] = 1,
    text: Annotated[
        list[str],
        typer.Option("--text", "-t", help="Keep only masks that fit this phrase; it becomes their label. May repeat."),
    ] = [],  # noqa: B006
    text_keep: Annotated[int, typer.Option(help="Masks to keep for each phrase, best first.", min=1)] = 3,
    text_model: Annotated[str, typer.Option(help=TEXT_MODEL)] = "offline",
    engine: Annotated[str, typer.Option(help="`local` (processes of this machine) or `ray` (any number).")] = "local",
    workers: Annotated[int, typer.Option(help="Processes, each with the model; for many photos.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker; else the processors shared.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, as `auto` or `host:6379`; else one on this machine.")
    ] = None,
) -> None:
    """Find every mask in photos.

    Run it again after a stop: photos that are done, with the same content and options, are skipped. A broken photo is
    reported and the others go on; the exit code is 1 then.

    **Examples**

    `anymask everything photo.jpg -o out`

    `anymask everything photos/ 'more/*.png' clip.mp4 -o out --format coco --points-per-side 16 --every 25`

    `anymask everything photos/ --text dog --text "a sofa" --text-keep 1 -o out --format coco`

    `anymask everything satellite.tif -o out --tile 1024 --overlap 128`

    `anymask everything shards/*.tar -o out --format sa1b-shards --model vit_b --preset paper --engine ray --workers 8`
    """
    given = locals()
    from anymask.predict.everything import Plan, prepare
    from anymask.predict.formats import FORMATS, known_format
    from anymask.predict.options import AutomaticOptions, option_defaults
    from anymask.predict.tiles import Tiles

    started = time.perf_counter()
    format_name = known_format(format_name)
    with_photos = FORMATS[format_name].with_photos
    _check(engine, workers, threads, every, time_budget, ray_address)
    if overlays and with_photos:
        raise InputError("tar shards come without pictures; leave --overlays out.")
    options = AutomaticOptions.of(
        preset or ("lite" if model == "lite" else "official"),
        output_mode="coco_rle",
        **{name: value for name, value in given.items() if value is not None and name in option_defaults()},
    )
    if text and tile is not None:
        raise InputError("--text compares the masks of a whole photo; leave --tile out.")
    tiles = None if tile is None else Tiles(tile, overlap)
    draw = not with_photos if overlays is None else overlays
    load = partial(load_generator, model, checkpoint, device, precision, options, runtime, text, text_keep, text_model)
    generator = load()
    name = describe_model(generator, model) + (f" {text} {text_keep} {text_model}" if text else "")
    loaded = time.perf_counter()
    plan = Plan(output, format_name, options, name, draw, time_budget, tiles)
    prepare(plan)
    is_alone = engine == "local" and workers == 1 and threads is None
    run = Run(
        generator if is_alone else None,
        load,
        engine,
        workers,
        threads,
        ray_address,
        on_gpu=device != "cpu",
    )
    del generator
    tally = (run_shards if with_photos else run_files)(run, photos, plan, every)
    report(tally, plan, loaded - started, time.perf_counter() - started)


def load_generator(
    model: str, checkpoint: Path | None, device: str, precision: str, options: Any, runtime: str = "torch",
    phrases: list[str] = [], keep: int = 3, text_model: str = "offline",  # noqa: B006
) -> Any:  # fmt: skip
    """A ready `SamAutomaticMaskGenerator`, or with phrases a filter around it."""
    from anymask.cli.predict import load_predictor
    from anymask.predict.automatic import SamAutomaticMaskGenerator

    made = SamAutomaticMaskGenerator.of(load_predictor(model, checkpoint, device, precision, 0, 0, runtime), options)
    if not phrases:
        return made
    from anymask.text.choice import TextChoice
    from anymask.text.filtering import PhraseFilter

    return PhraseFilter(made, TextChoice(text_model), phrases, keep)


def describe_model(generator: Any, model: str) -> str:
    """Model name, floating-point type, and a hash of samples of every weight: other weights mean other masks."""
    import hashlib

    sam = getattr(generator.segmenter, "sam", None)
    if sam is None:  # an exported model
        about = generator.segmenter.manifest
        return f"{about.model} {about.side} {about.form} {about.precision} {about.weights_sha256[:16]}"
    digest = hashlib.sha256()
    for tensor in sam.state_dict().values():
        values = tensor.detach().flatten()
        digest.update(values[:: 1 + values.numel() // 4096].float().cpu().numpy().tobytes())
    return f"{model} {generator.segmenter.side} {sam.dtype} {digest.hexdigest()[:16]}"


def _check(
    engine: str, workers: int, threads: int | None, every: int, time_budget: float | None, ray_address: str | None
) -> None:
    if engine not in ENGINES:
        raise unknown_name("engine", engine, list(ENGINES))
    for name, value in (("--workers", workers), ("--threads", threads), ("--every", every)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}.")
    if time_budget is not None and not time_budget > 0:
        raise InputError(f"--time-budget must be more than 0 seconds, got {time_budget:g}.")
    if ray_address is not None and engine != "ray":
        raise InputError("--ray-address is for --engine ray; add that.")
