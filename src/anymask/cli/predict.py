"""`anymask predict`: photos and prompts in, masks out."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymask.core.errors import AnymaskError, OptionError
from anymask.text.choice import TEXT_MODEL

if TYPE_CHECKING:
    from anymask.predict.request import Request, Result

SAMPLES = ("cat", "astronaut")  # photos that scikit-image carries, CC0 and public domain


def predict(
    photos: Annotated[list[str], typer.Argument(help="Photos, or `sample:cat` for a photo to try.")],
    point: Annotated[
        list[str],
        typer.Option("--point", "-p", help="A click `x,y` in pixels; `x,y,-` for background. May repeat."),
    ] = [],  # noqa: B006
    box: Annotated[
        list[str], typer.Option("--box", "-b", help="A box `x0,y0,x1,y1` in pixels. May repeat.")
    ] = [],  # noqa: B006
    mask: Annotated[Path | None, typer.Option(help="A black-and-white picture as a rough mask.")] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", "-t", help="A phrase; alone it chooses among all masks, with clicks among theirs."),
    ] = None,
    text_model: Annotated[str, typer.Option(help=TEXT_MODEL)] = "offline",
    model: Annotated[str, typer.Option(help="`lite` (inside the package), `vit_b`, `vit_l` or `vit_h`.")] = "lite",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of that model; any format.")] = None,
    multimask: Annotated[
        bool | None,
        typer.Option(help="Three candidates or one mask; by default three for a single prompt."),
    ] = None,
    zoom: Annotated[
        bool | None,
        typer.Option(help="Answer prompts on small things again on a crop around them; by default for `lite`."),
    ] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `mps`.")] = "auto",
    precision: Annotated[str, typer.Option(help="`auto`, `fp32` or `bf16`; auto: bf16 where native.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="`torch`, `onnx` or `openvino`; --checkpoint may be a folder of `anymask export`.")
    ] = "torch",
    max_hole_area: Annotated[float, typer.Option(help="Fill holes up to this many pixels.")] = 0,
    max_sprinkle_area: Annotated[float, typer.Option(help="Remove islands up to this many pixels.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures and JSON.")] = Path(
        "anymask-output"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON to standard output, one line a photo; no files.")
    ] = False,
) -> None:
    """Segment what you point at.

    Writes an overlay picture, each candidate mask as PNG, and JSON with COCO RLE.

    **Examples**

    `anymask predict photo.jpg --point 500,375`

    `anymask predict photo.jpg --box 75,275,1725,850 --point 1000,600,- -o out`

    `anymask predict photo.jpg --text "a cat"`

    `anymask predict *.jpg --point 200,150 --json > masks.jsonl`
    """
    from anymask.predict.request import answer, to_json, write

    started = time.perf_counter()
    request = replace(parse_request(point, box, mask, multimask, text), zoom=model == "lite" if zoom is None else zoom)
    predictor = load_predictor(model, checkpoint, device, precision, max_hole_area, max_sprinkle_area, runtime)
    respond: Any = answer
    if text is not None:
        from anymask.text.answer import text_answerer

        respond = text_answerer(text_model)
    loaded = time.perf_counter()
    failed = []
    for source, stem in progress(list(zip(photos, unique_stems(photos))), quiet=len(photos) == 1):
        try:
            result = respond(predictor, open_source(source), request)
            data = to_json(result, source, model, request)
            if as_json:
                print(json.dumps(data), flush=True)
            else:
                report(result, write(result, data, request, output, stem))
        except (AnymaskError, OSError) as error:
            if len(photos) == 1:
                raise
            failed.append(source)
            print(f"anymask: {source}: {error}", file=sys.stderr)
    if not as_json:
        total = time.perf_counter() - started
        print(f"model {model} loaded in {loaded - started:.2f} s, all done in {total:.2f} s")
    if failed:
        print(f"anymask: {len(failed)} of {len(photos)} photos failed.", file=sys.stderr)
        raise typer.Exit(1)


def parse_request(
    points: list[str], boxes: list[str], mask: Path | None, multimask: bool | None, text: str | None = None
) -> Request:
    """Options to a request; at least one prompt is needed."""
    from anymask.predict.request import Request

    if not points and not boxes and mask is None and text is None:
        raise OptionError(
            "nothing to segment was given. Say where: --point x,y, --box x0,y0,x1,y1 or --mask file.png; or "
            "what: --text PHRASE."
        )
    if text is not None and not text.strip():
        raise OptionError("--text is empty; say what to look for, such as --text 'a wheel'.")
    if len(boxes) > 1 and text is not None:
        raise OptionError("several boxes are several objects; a phrase goes with one box at most.")
    if len(boxes) > 1 and (points or mask is not None):
        raise OptionError("several boxes are several objects; points and a mask go with one box at most.")
    clicks = [parse_point(text) for text in points]
    image_mask = None
    if mask is not None:
        from anymask.core.images import read_image

        image_mask = read_image(mask).max(axis=2) > 127
    return Request(
        [(x, y) for x, y, _ in clicks],
        [label for *_, label in clicks],
        [parse_box(text) for text in boxes],
        image_mask,
        multimask,
        text,
    )


def parse_point(text: str) -> tuple[float, float, int]:
    """`x,y`, `x,y,+` or `x,y,-` to x, y and a label."""
    parts = [p.strip() for p in text.split(",")]
    labels = {"+": 1, "-": 0, "1": 1, "0": 0}
    try:
        x, y = float(parts[0]), float(parts[1])
        label = labels[parts[2]] if len(parts) == 3 else 1
        if len(parts) > 3:
            raise ValueError
    except (ValueError, IndexError, KeyError) as error:
        raise OptionError(f"--point takes x,y or x,y,+ or x,y,- in pixels, got {text!r}.") from error
    return x, y, label


def parse_box(text: str) -> tuple[float, float, float, float]:
    """`x0,y0,x1,y1` to four numbers."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--box takes x0,y0,x1,y1 in pixels, got {text!r}.") from error
    return x0, y0, x1, y1


def load_predictor(
    model: str, checkpoint: Path | None, device: str, precision: str, hole: float, sprinkle: float,
    runtime: str = "torch",
) -> Any:  # fmt: skip
    """A ready `SamPredictor`."""
    from anymask.predict.predictor import SamPredictor

    if runtime != "torch":
        from anymask.export.cache import exported_segmenter

        return SamPredictor(exported_segmenter(model, checkpoint, runtime, device), None, hole, sprinkle)
    from anymask.model.precision import place
    from anymask.weights.load import load_model

    sam = place(load_model(model, checkpoint=checkpoint), device, precision)
    return SamPredictor(sam, max_hole_area=hole, max_sprinkle_area=sprinkle)


def open_source(source: str) -> Any:
    """A path, or a sample photo by name."""
    if not source.startswith("sample:"):
        return Path(source)
    name = source.removeprefix("sample:")
    if name not in SAMPLES:
        raise OptionError(f"unknown sample {name!r}. Known: {', '.join(SAMPLES)}.")
    try:
        from skimage import data
    except ImportError as error:
        from anymask.core.errors import MissingExtraError

        raise MissingExtraError("the sample photos come with: pip install 'anymask[sample]'") from error
    return getattr(data, name)()


def unique_stems(photos: list[str]) -> list[str]:
    """Output names: the photo's stem, numbered where two photos share it."""
    seen: dict[str, int] = {}
    stems = []
    for photo in photos:
        stem = Path(photo.removeprefix("sample:")).stem
        seen[stem] = seen.get(stem, 0) + 1
        stems.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return stems


def progress(items: list[Any], quiet: bool) -> Any:
    """Iterate with a progress bar on standard error, with rate and time left."""
    if quiet or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, description="photos", console=Console(stderr=True), show_speed=True)


def report(result: Result, paths: list[Path]) -> None:
    """What was found, how long it took, and where the picture is."""
    for i, (masks, ious) in enumerate(zip(result.masks, result.predicted_iou)):
        name = f"object {i + 1}: " if len(result.masks) > 1 else ""
        for j, (mask, iou) in enumerate(zip(masks, ious)):
            share = 100 * mask.mean()
            mark = "best" if j == 0 else "    "
            found = "" if result.similarity is None else f"similarity {result.similarity[i, j]:.3f}  "
            print(f"{name}{mark} mask {j}  {found}predicted IoU {iou:.3f}  {int(mask.sum()):>9,} px ({share:.1f} %)")
    seconds = result.seconds
    print(
        f"read {1e3 * seconds['read']:.0f} ms · encode {1e3 * seconds['encode']:.0f} ms · "
        f"masks {1e3 * seconds['decode']:.0f} ms"
    )
    print(f"picture: {paths[0]}  (masks and JSON beside it)")
