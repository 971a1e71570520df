"""Proves: `anymask everything` finds photos everywhere, goes on after a stop, and no bad photo stops the others."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from automatic_pair import BlobSegmenter, blobby_photo
from PIL import Image
from typer.testing import CliRunner

from anymask.cli import predict as predict_command
from anymask.cli.convert import convert
from anymask.cli.everything import everything
from anymask.core.errors import ImageError, InputError, OptionError
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.everything import (
    Outcome,
    Plan,
    finish,
    image_id_of,
    prepare,
    segment_here,
    segment_photo,
)
from anymask.predict.formats import WRITABLE, read_masks
from anymask.predict.options import AutomaticOptions
from anymask.predict.sources import PhotoSource, find_photos

OPTIONS = AutomaticOptions.of(points_per_side=4, stability_score_thresh=0.6, output_mode="coco_rle")
ARGUMENTS = ["--points-per-side", "4", "--stability-score-thresh", "0.6"]

app = typer.Typer()
app.command("everything")(everything)
app.command("convert")(convert)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos, one in a folder below."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "more/a.jpg")):
        Image.fromarray(blobby_photo(i, (60, 80))).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def generator() -> SamAutomaticMaskGenerator:
    return SamAutomaticMaskGenerator.of(BlobSegmenter(), OPTIONS)


def plan_in(folder: Path, format_name: str = "sa1b", **values: Any) -> Plan:
    return Plan(folder, format_name, OPTIONS, "blobs", **values)


def segment_photos(generator: Any, sources: list[PhotoSource], plan: Plan) -> list[Outcome]:
    """A whole run in this process."""
    prepare(plan)
    outcomes = list(segment_here(generator, sources, plan))
    finish(plan, sources)
    return outcomes


def shard(path: Path, photos: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in photos.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(blobby_photo(seed, (50, 70))).save(buffer, "PNG")
    return buffer.getvalue()


def test_photos_are_found_everywhere(folder: Path) -> None:
    tar = shard(folder / "sa_0.tar", {"./sa_1.png": encoded(1), "./sa_1.json": b"{}", "sub/sa_2.png": encoded(2)})
    found = find_photos([folder])
    assert [s.file_name for s in found] == ["a.png", "a.jpg", "sa_1.png", "sa_2.png"]
    assert [s.stem for s in found] == ["a", "a-2", "sa_1", "sa_2"]
    assert found[2].read() == encoded(1)
    assert [s.name for s in find_photos([str(folder / "*.png"), folder / "a.png"])] == [str(folder / "a.png")]
    assert [s.stem for s in find_photos([tar])] == ["sa_1", "sa_2"]
    with pytest.raises(InputError, match="no photos in"):
        find_photos([folder / "*.gif"])


def test_a_shard_cut_off_gives_what_it_holds(folder: Path) -> None:
    tar = shard(folder / "x.tar", {"sa_1.png": encoded(1), "sa_2.png": encoded(2)})
    tar.write_bytes(tar.read_bytes()[: 512 + len(encoded(1)) + 1500])
    first, *rest = find_photos([tar])
    assert first.read() == encoded(1)
    with pytest.raises(ImageError):
        rest[-1].read()
    (bad,) = find_photos([_no_tar(folder)])
    with pytest.raises(ImageError, match="no readable tar shard"):
        bad.read()


def _no_tar(folder: Path) -> Path:
    (folder / "y.tar").write_bytes(b"not a tar" * 200)
    return folder / "y.tar"


@pytest.mark.parametrize("name", WRITABLE)
def test_every_format(folder: Path, tmp_path: Path, generator: SamAutomaticMaskGenerator, name: str) -> None:
    out = tmp_path / "out"
    outcomes = segment_photos(generator, find_photos([folder]), plan_in(out, name))
    assert all(o.error is None and o.num_masks for o in outcomes)
    photos = read_masks(out, name)
    assert sorted(p.stem for p in photos) == ["a", "a-2"]
    if name != "labelmap":
        assert [len(p.masks) for p in sorted(photos, key=lambda p: p.stem)] == [o.num_masks for o in outcomes]
    pictures = sorted(p.name for p in (out / "overlays").iterdir())
    assert pictures == ["a-2.jpg", "a.jpg", "contact-sheet.jpg"]


def test_done_work_is_skipped_by_content_and_options(
    folder: Path, tmp_path: Path, generator: SamAutomaticMaskGenerator
) -> None:
    plan, out = plan_in(tmp_path / "out"), tmp_path / "out"
    sources = find_photos([folder])
    segment_photos(generator, sources, plan)
    before = (out / "a.json").stat().st_mtime_ns
    assert [o.skipped for o in segment_photos(generator, sources, plan)] == [True, True]
    assert (out / "a.json").stat().st_mtime_ns == before
    Image.fromarray(blobby_photo(5, (60, 80))).save(folder / "a.png")
    assert [o.skipped for o in segment_photos(generator, sources, plan)] == [False, True]
    other = Plan(out, "sa1b", OPTIONS, "other weights")
    assert [o.skipped for o in segment_photos(generator, sources, other)] == [False, False]
    (out / ".anymask" / "a.json").write_text("{ half an ent")
    assert [o.skipped for o in segment_photos(generator, sources, other)] == [False, True]


def test_a_run_killed_in_the_middle_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = SamAutomaticMaskGenerator.of(BlobSegmenter(), OPTIONS)
    plan, sources = plan_in(tmp_path / "out", "coco"), find_photos([folder])
    original = generator.generate

    def killed(image: np.ndarray, **options: Any) -> Any:
        if segmented:
            raise KeyboardInterrupt
        segmented.append(1)
        return original(image, **options)

    segmented: list[int] = []
    monkeypatch.setattr(generator, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        segment_photos(generator, sources, plan)
    monkeypatch.setattr(generator, "generate", original)
    assert [o.skipped for o in segment_photos(generator, sources, plan)] == [True, False]
    assert [p.stem for p in read_masks(plan.folder, "coco")] == ["a", "a-2"]


def test_our_own_output_is_no_input(folder: Path, generator: SamAutomaticMaskGenerator) -> None:
    segment_photos(generator, find_photos([folder]), plan_in(folder / "out"))
    assert [s.stem for s in find_photos([folder])] == ["a", "a-2"]


def test_zero_masks_are_a_result(folder: Path, tmp_path: Path) -> None:
    strict = AutomaticOptions.of(points_per_side=2, pred_iou_thresh=2.0, output_mode="coco_rle")
    generator = SamAutomaticMaskGenerator.of(BlobSegmenter(), strict)
    for name in WRITABLE:
        outcome = segment_photos(generator, find_photos([folder / "a.png"]), plan_in(tmp_path / name, name))
        assert [(o.num_masks, o.error) for o in outcome] == [(0, None)]
        assert [p.masks for p in read_masks(tmp_path / name, name)] == [()]


def test_image_ids() -> None:
    assert image_id_of("sa_223750") == 223750
    assert image_id_of("cat") == image_id_of("cat") != image_id_of("dog")


def test_memory_running_out_is_the_photos_problem(
    folder: Path, tmp_path: Path, generator: SamAutomaticMaskGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(generator, "generate", too_much)
    outcome = segment_photo(generator, find_photos([folder])[0], plan_in(tmp_path))
    assert outcome.error == "MemoryError"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line with the blob model instead of one with weights."""
    monkeypatch.setattr(predict_command, "load_predictor", lambda *_: SimpleNamespace(segmenter=BlobSegmenter()))
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_reports_a_bad_file_and_does_the_rest(folder: Path, tmp_path: Path, command: Any) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    result = command("everything", folder, folder / "missing.jpg", "-o", tmp_path / "out", *ARGUMENTS)
    assert result.exit_code == 1
    assert "2 photos, " in result.stdout
    assert "2 of 4 photos failed" in result.stderr and "broken.jpg" in result.stderr
    assert "missing.jpg: does not exist" in result.stderr and "Traceback" not in result.stderr
    assert json.loads((tmp_path / "out" / "a.json").read_text())["annotations"]
    again = command("everything", folder / "a.png", "-o", tmp_path / "out", *ARGUMENTS)
    assert again.exit_code == 0 and "(1 were done before)" in again.stdout


def test_command_then_convert(folder: Path, tmp_path: Path, command: Any) -> None:
    out = tmp_path / "out"
    assert command("everything", folder, "-o", out, "--no-overlays", *ARGUMENTS).exit_code == 0
    assert not (out / "overlays").exists()
    result = command("convert", out, "--to", "coco", "-o", tmp_path / "coco")
    assert result.exit_code == 0 and "2 photos" in result.stdout
    assert [p.masks for p in read_masks(tmp_path / "coco")] == [p.masks for p in read_masks(out)]
    inside = command("convert", out, "--to", "coco", "-o", out / "annotations")
    assert isinstance(inside.exception, InputError)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--format", "cocoo"], OptionError, "Did you mean 'coco'"),
        (["--points-per-side", "0"], OptionError, "points_per_side"),
        (["--preset", "fast"], OptionError, "official, paper, lite"),
        (["--time-budget", "0"], InputError, "more than 0 seconds"),
        (["--crop-overlap-ratio", "2"], OptionError, "crop_overlap_ratio"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, command: Any, arguments: list, error: type, message: str) -> None:
    result = command("everything", folder, "-o", tmp_path / "out", *arguments)
    assert isinstance(result.exception, error) and message in str(result.exception)


def test_an_unwritable_folder(folder: Path, tmp_path: Path, command: Any) -> None:
    (tmp_path / "file").write_text("")
    result = command("everything", folder, "-o", tmp_path / "file" / "out", *ARGUMENTS)
    assert isinstance(result.exception, InputError) and "Choose another --output" in str(result.exception)


def test_every_option_reaches_the_generator(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anymask.cli import everything as module

    seen: list[AutomaticOptions] = []

    def load(model: str, checkpoint: Any, device: str, precision: str, options: AutomaticOptions, *_: str) -> Any:
        seen.append(options)
        return SamAutomaticMaskGenerator.of(BlobSegmenter(), options)

    monkeypatch.setattr(module, "load_generator", load)
    values = {
        "points_per_side": 2,
        "points_per_batch": 7,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.7,
        "stability_score_offset": 0.9,
        "box_nms_thresh": 0.6,
        "crop_n_layers": 1,
        "crop_nms_thresh": 0.8,
        "crop_overlap_ratio": 0.25,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 9.0,
        "max_mask_region_area": 999.0,
        "max_coverage": 0.9,
        "granularity": "whole",
    }
    flags = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    result = CliRunner().invoke(app, ["everything", str(folder), "-o", str(tmp_path / "out"), *flags])
    assert result.exit_code == 0, result.output
    assert {name: getattr(seen[0], name) for name in values} == values


def test_the_lite_model_gets_its_own_thresholds(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anymask.cli import everything as module

    seen: list[AutomaticOptions] = []

    def load(model: str, checkpoint: Any, device: str, precision: str, options: AutomaticOptions, *_: str) -> Any:
        seen.append(options)
        raise InputError("enough")

    monkeypatch.setattr(module, "load_generator", load)
    for more in ([], ["--model", "vit_b"], ["--pred-iou-thresh", "0.88"], ["--preset", "official"]):
        CliRunner().invoke(app, ["everything", str(folder), "-o", str(tmp_path / "out"), *more])
    assert [o.pred_iou_thresh for o in seen] == [0.54, 0.88, 0.88, 0.88]
    assert [o.stability_score_offset for o in seen] == [0.25, 1.0, 0.25, 1.0]
