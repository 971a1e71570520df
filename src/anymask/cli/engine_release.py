"""`anymask engine release`: the project as a data set to give away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.engine_shared import Database, Project, open_project

SHOWN = 20  # photos named that were left out


def release(
    database: Database,
    output: Annotated[Path, typer.Argument(help="Folder for the data set; new, empty, or an earlier release.")],
    project: Project = None,
    faces: Annotated[
        str | None, typer.Option(help="Detector of faces: YuNet's .onnx, package.module:callable, or an installed one.")
    ] = None,
    plates: Annotated[str | None, typer.Option(help="Detector of licence plates, in the same way.")] = None,
    unblurred: Annotated[bool, typer.Option("--unblurred", help="Release without blurring; the card says so.")] = False,
    stage: Annotated[int | None, typer.Option(help="Masks of this stage only; the paper releases 3.")] = None,
    state: Annotated[str | None, typer.Option(help="proposed or accepted. Default: not rejected.")] = None,
    short_side: Annotated[int, typer.Option(help="Larger photos are scaled to this short side, in pixels.")] = 1500,
    about: Annotated[
        Path | None, typer.Option(help="TOML with what people have to say on the cards. Default: in OUTPUT/.anymask.")
    ] = None,
) -> None:
    """Write SA-1B's tar shards of 1,000 photos with hashes, a manifest, a data-set card and an annotation card.

    Photos are scaled, faces and licence plates blurred, EXIF removed; masks are scaled along. The run may be stopped
    and repeated: finished shards stay. Exit code 1 where a photo had to be left out.

    **Examples**

    `anymask engine release masks.db out/ --faces face_detection_yunet_2023mar.onnx --plates my_package.plates:detect`

    `anymask engine release masks.db out/ --stage 3 --unblurred`
    """
    from anymask.core.errors import OptionError
    from anymask.engine.blur import load_detector
    from anymask.engine.release import ReleasePlan, manifest_of
    from anymask.engine.release import release as write_release
    from anymask.engine.release_cards import Known, write_cards
    from anymask.engine.report import make_report
    from anymask.engine.report_details import make_details
    from anymask.engine.study import latest_study, result_of

    if unblurred and (faces or plates):
        raise OptionError("--unblurred says that nothing is blurred; leave it out, or --faces and --plates.")
    if not unblurred and not (faces or plates):
        raise OptionError(
            "nobody should be recognised in what is given away, and no detector was named: give --faces and --plates, "
            "or say --unblurred, and the card will say it too."
        )
    detectors = tuple(load_detector(what, name) for what, name in (("faces", faces), ("plates", plates)) if name)
    plan = ReleasePlan(output, detectors, short_side, stage, state)
    store, project_id = open_project(database, project)
    released = write_release(store, project_id, plan, _tell)
    manifest = manifest_of(released, plan)
    study = None if latest_study(store, project_id) is None else result_of(store, project_id)
    known = Known(manifest, make_report(store, project_id), make_details(store, project_id), study)
    answers = about or output / ".anymask" / "about.toml"
    num_open = write_cards(output, project or store.project_names()[0], known, answers)
    store.close()
    print(
        f"{output}: {released.num_photos:,} photos, {released.num_masks:,} masks, {len(manifest['shards']):,} shards "
        f"({released.num_skipped:,} were there); {released.num_without:,} photos have no such masks"
    )
    for what, found in manifest["blurred"].items():
        done = "not blurred" if found is None else f"{found['regions']:,} blurred on {found['photos']:,} photos"
        print(f"{what}: {done}")
    if num_open:
        print(f"{num_open} questions of the cards are open: write answers into {answers} and run this again")
    for name, reason in released.problems[:SHOWN]:
        print(f"anymask: left out: {name}: {reason}", file=sys.stderr)
    if released.problems:
        print(
            f"anymask: {len(released.problems):,} photos were left out; they are tried again next time", file=sys.stderr
        )
        raise typer.Exit(1)


def _tell(done: int, total: int) -> None:
    """A line on the terminal that counts up; nothing elsewhere."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\ranymask: photos {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)
