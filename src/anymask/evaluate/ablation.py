"""Ablation sweeps: the same training with one thing changed from cell to cell, each judged alike (PAPER §7.7, Fig. 13).

A cell is a plain run of `anymask train`: a recipe and its overrides. Its folder holds the run in `train/` and its
evaluation in `points/`; both go on where they stopped, and a cell whose model is there already is only evaluated, so
that large cells may be trained elsewhere, on many GPUs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anymask.core.errors import InputError, OptionError, StateError
from anymask.core.files import write_aside
from anymask.data.readers import Photo
from anymask.evaluate import report
from anymask.evaluate.contract import Curve, Plot, Table
from anymask.evaluate.points import Points
from anymask.evaluate.runner import run_task
from anymask.evaluate.workers import one_cluster
from anymask.train.config import TrainConfig
from anymask.train.loop import Trainer

if TYPE_CHECKING:
    from anymask.predict.ray_engine import RaySettings


@dataclass
class Cell:
    """One training. x: its place on the axis; without one, its number. recipe: instead of the sweep's. settings: on
    top of the sweep's, such as share=0.1.
    """

    name: str = "???"
    x: float | None = None
    recipe: str | None = None
    settings: list[str] = field(default_factory=list)


@dataclass
class Sweep:
    """A YAML file. recipe, settings: of every cell. x_label, log_x: of the figure's axis."""

    title: str = "???"
    x_label: str = ""
    log_x: bool = False
    recipe: str = "lite"
    settings: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """A cell with its number of photos (repeated ones count again) and its evaluation's numbers, mean over sets."""

    cell: Cell
    num_photos: int | None
    mean: dict[str, float]


def load_sweep(path: Path) -> Sweep:
    """A sweep's file; unknown keys, missing names and names that are there twice are refused."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        sweep = cast(Sweep, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sweep), OmegaConf.load(path))))
    except OmegaConfBaseException as error:
        raise OptionError(f"{path}: {str(error).splitlines()[0]}") from error
    folders = [folder_name(cell) for cell in sweep.cells]
    if not folders or len(set(folders)) < len(folders):
        raise OptionError(f"{path}: expected cells with different names, got {[c.name for c in sweep.cells]}.")
    return sweep


def run_sweep(
    sweep: Sweep,
    configs: Sequence[TrainConfig],
    photos: Callable[[], Sequence[Photo]],
    points: Points,
    out: Path,
    workers: int | RaySettings = 1,
    say: Callable[[str], None] = lambda text: None,
) -> Table:
    """Train and evaluate every cell, and write table and figure to `out` after each.

    configs: of the cells. photos: reads what all of them choose from, called only where a cell is to be trained.
    points: the evaluation, whose model is replaced.
    Raises InputError where `out` holds another sweep, StateError where a training was asked to stop.
    """
    _begin(sweep, configs, points, out)
    photos = cache(photos)
    done: list[Trained] = []
    table = table_of(sweep, done)
    with one_cluster(workers):
        for cell, config in zip(sweep.cells, configs):
            folder = out / folder_name(cell)
            model = folder / "train" / "model.safetensors"
            if not model.is_file():
                say(f"{cell.name}: training")
                trainer = Trainer(config, photos(), folder / "train")
                trainer.run()
                if not model.is_file():
                    raise StateError(f"{cell.name} stopped at step {trainer.step}; run the same command to go on.")
                (folder / "train" / "num_photos").write_text(f"{len(trainer.photos)}\n")
            say(f"{cell.name}: evaluating")
            judged = replace(points, model=replace(points.model, model=str(model)))
            outcome = run_task(judged, folder / "points", workers)
            done.append(Trained(cell, _num_photos(folder), outcome.summary["mean"]))
            table = table_of(sweep, done)
            report.write_tables([table], out)
            report.draw(figure_of(sweep, done), out / "sweep.png")
    return table


def table_of(sweep: Sweep, done: Sequence[Trained]) -> Table:
    """mIoU after each number of clicks by cell."""
    keys = [key for key in (done[0].mean if done else {}) if key == "oracle" or key.startswith("clicks_")]
    names = [key.replace("clicks_1", "1 click").replace("clicks_", "") for key in keys]
    rows = [(t.cell.name, t.num_photos, *(t.mean[key] for key in keys)) for t in done]
    note = "mIoU in % after 1, 2 … clicks, the mean over sets; oracle: the best of three after one. Published: curves."
    return Table(sweep.title, ("cell", "photos", *names), rows, note)


def figure_of(sweep: Sweep, done: Sequence[Trained]) -> Plot:
    """A line for each number of clicks; after one click the best of three, as published."""
    placed = all(t.cell.x is not None for t in done)
    x = [t.cell.x if placed and t.cell.x is not None else float(i) for i, t in enumerate(done)]
    keys = [key for key in done[0].mean if key == "oracle" or (key.startswith("clicks_") and key != "clicks_1")]
    names = ["1 click, oracle" if key == "oracle" else f"{key.removeprefix('clicks_')} clicks" for key in keys]
    curves = [Curve(name, x, [t.mean[key] for t in done]) for key, name in zip(keys, names)]
    ticks = () if placed else tuple(t.cell.name for t in done)
    return Plot(sweep.title, sweep.x_label, "mIoU (%)", curves, ticks, sweep.log_x and placed)


def folder_name(cell: Cell) -> str:
    """`1 %` to `1`, `manual + semi` to `manual-semi`."""
    return re.sub(r"[^a-z0-9.]+", "-", cell.name.lower()).strip("-.") or "cell"


def _begin(sweep: Sweep, configs: Sequence[TrainConfig], points: Points, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data = [str(path) for path in points.data]
    now: dict[str, Any] = {"sweep": asdict(sweep), "train": [asdict(config) for config in configs], "points": data}
    now |= {"protocol": asdict(points.protocol), "max_photos": points.max_photos}
    now, noted = json.loads(json.dumps(now)), out / "sweep.json"
    if noted.exists():
        before = json.loads(noted.read_text())
        differs = [key for key in now if before.get(key) != now[key]]
        if differs:
            raise InputError(f"{out} holds another sweep: {', '.join(differs)} differ; choose another --out.")
        return
    with write_aside(noted) as part:
        part.write_text(json.dumps(now, indent=1) + "\n")


def _num_photos(folder: Path) -> int | None:
    noted = folder / "train" / "num_photos"
    return int(noted.read_text()) if noted.is_file() else None
