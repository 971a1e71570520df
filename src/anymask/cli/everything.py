"""`anymask everything`: photos in, all their masks out."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymask.core.errors import InputError

if TYPE_CHECKING:
    from anymask.predict.everything import Outcome, Plan
    from anymask.predict.sources import PhotoSource


def everything(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders, globs in quotes, tar shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the masks; may exist.")] = Path(
        "anymask-output"
    ),
    format_name: Annotated[
        str, typer.Option("--format", "-f", help="sa1b, coco, coco_polygons, yolo, labelme, png or labelmap.")
    ] = "sa1b",
    model: Annotated[str, typer.Option(help="`lite` (inside the package), `vit_b`, `vit_l` or `vit_h`.")] = "lite",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of that model; any format.")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `mps`.")] = "auto",
    precision: Annotated[str, typer.Option(help="`auto`, `fp32` or `bf16`; auto: bf16 where native.")] = "auto",
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
    time_budget: Annotated[float | None, typer.Option(help="Seconds for a photo; then take what there is.")] = None,
    overlays: Annotated[bool, typer.Option(help="Draw pictures and a contact sheet.")] = True,
    workers: Annotated[int, typer.Option(help="Processes, each with the model; for many photos.")] = 1,
) -> None:
    """Find every mask in photos.

    Run it again after a stop: photos that are done, with the same content and options, are skipped. A broken photo is
    reported and the others go on; the exit code is 1 then.

    **Examples**

    `anymask everything photo.jpg -o out`

    `anymask everything photos/ 'more/*.png' sa_000000.tar -o out --format coco --points-per-side 16`

    `anymask everything photos/ -o out --preset paper --model vit_b --workers 2`
    """
    given = locals()
    from anymask.predict.everything import Plan, segment_photos
    from anymask.predict.formats import find_format
    from anymask.predict.options import AutomaticOptions, option_defaults
    from anymask.predict.sources import find_photos

    started = time.perf_counter()
    find_format(format_name)
    if time_budget is not None and not time_budget > 0:
        raise InputError(f"--time-budget must be more than 0 seconds, got {time_budget:g}.")
    options = AutomaticOptions.of(
        preset or ("lite" if model == "lite" else "official"),
        output_mode="coco_rle",
        **{name: value for name, value in given.items() if value is not None and name in option_defaults()},
    )
    sources = find_photos(photos)
    generator = load_generator(model, checkpoint, device, precision, options)
    loaded = time.perf_counter()
    name = describe_model(generator, model)
    plan = Plan(output, format_name, options, name, overlays, time_budget)
    with Bar(len(sources)) as bar:
        if workers == 1:
            outcomes = segment_photos(generator, sources, plan, bar.step)
        else:
            from anymask.predict.workers import segment_photos_in_workers

            del generator
            load = partial(load_generator, model, checkpoint, device, precision, options)
            outcomes = segment_photos_in_workers(load, sources, plan, workers, bar.step)
    report(outcomes, plan, loaded - started, time.perf_counter() - started)


def load_generator(model: str, checkpoint: Path | None, device: str, precision: str, options: Any) -> Any:
    """A ready `SamAutomaticMaskGenerator`."""
    from anymask.cli.predict import load_predictor
    from anymask.predict.automatic import SamAutomaticMaskGenerator

    return SamAutomaticMaskGenerator.of(load_predictor(model, checkpoint, device, precision, 0, 0), options)


def describe_model(generator: Any, model: str) -> str:
    """Model name, floating-point type, and a hash of samples of every weight: other weights mean other masks."""
    import hashlib

    sam = generator.segmenter.sam
    digest = hashlib.sha256()
    for tensor in sam.state_dict().values():
        values = tensor.detach().flatten()
        digest.update(values[:: 1 + values.numel() // 4096].float().cpu().numpy().tobytes())
    return f"{model} {generator.segmenter.side} {sam.dtype} {digest.hexdigest()[:16]}"


class Bar:
    """Progress on standard error with photos in an hour and time left; silent where that is no terminal."""

    def __init__(self, num_photos: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("photos {task.fields[done]}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("photos", total=num_photos, done=0, rate="")
        self._started = time.perf_counter()
        self._worked = 0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, done: int, part: float, outcome: Outcome | None) -> None:
        """Show how far it is; failures at once."""
        if outcome is not None and outcome.error is not None:
            print(f"anymask: {outcome.source.name}: {outcome.error}", file=sys.stderr)
        if outcome is not None and not outcome.skipped:
            self._worked += 1
        per_hour = 3600 * (self._worked + part) / (time.perf_counter() - self._started)
        self._progress.update(self._task, completed=done + part, done=done, rate=f"{per_hour:,.0f} photos/h")


def report(outcomes: list[Outcome], plan: Plan, loading_s: float, total_s: float) -> None:
    """What was found, where it is, and which photos failed; leaves with 1 if any did."""
    good = [o for o in outcomes if o.error is None]
    new = [o for o in good if not o.skipped]
    skipped = f" ({len(good) - len(new)} were done before)" if len(new) < len(good) else ""
    print(f"{len(good)} photos{skipped}, {sum(o.num_masks for o in good)} masks as {plan.format_name} in {plan.folder}")
    if plan.overlays and good:
        print(f"pictures: {plan.folder / 'overlays'}")
    print(f"model loaded in {loading_s:.2f} s, all done in {total_s:.2f} s")
    failed: list[PhotoSource] = [o.source for o in outcomes if o.error is not None]
    if failed:
        print(f"anymask: {len(failed)} of {len(outcomes)} photos failed:", file=sys.stderr)
        for source in failed:
            print(f"  {source.name}", file=sys.stderr)
        raise typer.Exit(1)
