"""`anymask data`: look through photos with masks, and make synthetic ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anymask.data.check import SetReport

app = typer.Typer(help="Check photos with masks, and make synthetic ones.", no_args_is_help=True)


@app.callback()
def _family() -> None:
    pass


@app.command("check", no_args_is_help=True)
def check(
    paths: Annotated[list[Path], typer.Argument(help="Data sets: SA-1B, COCO, LVIS, VOC, DAVIS, BSDS500, folders.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for `report.json` and `report.png`.")] = None,
    plot: Annotated[bool, typer.Option(help="Draw `report.png`; needs matplotlib.")] = True,
    strict: Annotated[bool, typer.Option(help="Exit with 1 where there is a problem, for CI.")] = False,
) -> None:
    """Find broken photos and bad masks before training, and show what the masks look like.

    **Example**

    `anymask data check my_photos/ coco/annotations/instances_val2017.json --out report/`
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from anymask.data.check import check_dataset, write_report
    from anymask.data.plots import draw_report, require_matplotlib
    from anymask.data.readers import layout_of

    for path in paths:
        layout_of(path)  # a wrong path is said before an hour's work on the others
    if out is not None:
        if plot:
            require_matplotlib()
        out.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    reports = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for path in paths:
            task = progress.add_task(str(path), total=None)
            reports.append(check_dataset(path, lambda task=task: progress.advance(task)))  # type: ignore[misc]
            progress.remove_task(task)
    for report in reports:
        _print_report(report)
    if out is not None:
        write_report(reports, out / "report.json")
        if plot:
            draw_report(reports, out / "report.png")
        print(f"\nAll of it: {out / 'report.json'}" + f", {out / 'report.png'}" * plot)
    if strict and any(len(report.problems) for report in reports):
        raise typer.Exit(1)


@app.command("synthesize")
def synthesize(
    out: Annotated[Path, typer.Option("--out", "-o", help="Tar shard to write, in the SA-1B layout.")],
    num: Annotated[int, typer.Option("--num", "-n", help="Number of scenes.", min=1)] = 100,
    start: Annotated[int, typer.Option(help="First scene; shards of one seed continue each other.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Scenes are the same for the same seed and art.", min=0)] = 0,
    size: Annotated[str, typer.Option(help="Height x width in pixels.")] = "480x640",
    crowds: Annotated[float, typer.Option(help="Share of scenes of many things that are alike.", min=0, max=1)] = 0.0,
    art: Annotated[
        list[Path] | None,
        typer.Option(help="SVG files, folders of them, @iconify-json packages. May repeat. Default: our own."),
    ] = None,
    cutouts: Annotated[
        list[Path] | None, typer.Option(help="Data sets whose segments are cut out and pasted. May repeat.")
    ] = None,
    backgrounds: Annotated[
        list[Path] | None, typer.Option(help="Data sets whose photos scenes stand on. May repeat.")
    ] = None,
) -> None:
    """Make scenes with exact nested masks (whole, part, subpart) from vector art and cut-outs of real segments.

    **Example**

    `anymask data synthesize --num 1000 --art node_modules/@iconify-json/noto --out shards/synthetic-000.tar`
    """
    import time

    from anymask.core.errors import OptionError
    from anymask.data.readers import open_dataset
    from anymask.data.shards import write_shard
    from anymask.data.synthetic import Cutouts, SceneOptions, SyntheticScenes, load_art

    height, _, width = size.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise OptionError(f"--size is height x width, such as 480x640, got {size!r}.")
    photos = {path: list(open_dataset(path)) for path in {*(cutouts or []), *(backgrounds or [])}}
    scenes = SyntheticScenes(
        load_art(art or []),
        Cutouts([p for path in cutouts for p in photos[path]]) if cutouts else None,
        [p for path in backgrounds or [] for p in photos[path]],
        SceneOptions(hw=(int(height), int(width)), crowds=crowds),
        seed,
    )
    begin = time.perf_counter()
    num_masks = write_shard(scenes.photos(num, start), out)
    seconds = time.perf_counter() - begin
    print(f"{out}: {num:,} scenes, {num_masks:,} masks, {num / seconds:.1f} scenes/s")


def _print_report(report: SetReport) -> None:
    """A set in a few lines: size, means, problems by kind with the first of each."""
    summary = report.summary
    print(f"{report.path} ({report.layout}): {summary['photos']:,} photos, {summary['masks']:,} masks")
    if summary["masks"]:
        print(
            f"  {summary['masks_per_photo']['mean']:.1f} masks a photo, relative size "
            f"{summary['relative_size']['mean']:.2f}, concavity {summary['concavity']['mean']:.2f} (means)"
        )
    for kind, count in report.problems.counts().items():
        first = next(p for p in report.problems.found if p.kind == kind)
        print(f"  {count:,} × {kind}, first: {first.file}: {first.message}")
    if not len(report.problems):
        print("  no problems")
