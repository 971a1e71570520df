"""`anymask evaluate ablation`: train with one thing changed from cell to cell, and draw what it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_shared import Device, Engine, MaxPhotos, Precision, RayAddress, Workers, workforce

Settings = Annotated[list[str], typer.Option("--set", help="Training setting of every cell, such as lr=1e-4.")]
Points = Annotated[list[str], typer.Option("--points", help="Protocol field of the evaluation, such as clicks=[1,3].")]


def ablation(
    sweep: Annotated[str, typer.Argument(help="`volume`, `stages`, `encoder`, or a YAML file.")],
    data: Annotated[list[Path], typer.Option(help="Photos with masks to train on. May repeat.")],
    truth: Annotated[list[Path], typer.Option(help="Photos with masks to judge on, as of `points`. May repeat.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for runs, evaluations, table and figure.")],
    recipe: Annotated[str | None, typer.Option(help="Training recipe, instead of the sweep's.")] = None,
    override: Settings = [],  # noqa: B006
    points: Points = [],  # noqa: B006
    precision: Precision = "auto",
    device: Device = "cpu",
    workers: Workers = 1,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    max_photos: MaxPhotos = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands that train the cells.")] = False,
) -> None:
    """The paper's ablations: data volume, stages of the data engine, size of the encoder.

    Trains a model for each cell, evaluates it, and draws mIoU over the cells. Stop it any time: the same command goes
    on. A cell whose OUT/<cell>/train/model.safetensors is there is only evaluated, so cells can be trained elsewhere
    by the commands of --dry-run.

    **Examples**

    `anymask evaluate ablation volume --data train/ --truth dev/ --out volume`

    `anymask evaluate ablation stages --data loop-engine/datasets/003 --truth dev/ --out stages --set init=lite`
    """
    from anymask.cli.train import find_recipe, read_photos
    from anymask.core.errors import OptionError, unknown_name
    from anymask.evaluate import ablation as sweeps
    from anymask.evaluate.datasets import domains
    from anymask.evaluate.models import ModelChoice
    from anymask.evaluate.overrides import with_overrides
    from anymask.evaluate.points import PointProtocol
    from anymask.evaluate.points import Points as PointTask
    from anymask.evaluate.report import text
    from anymask.train.config import load_config

    shipped = {path.stem: path for path in SWEEPS.glob("*.yaml")}
    file = Path(sweep) if sweep.endswith((".yaml", ".yml")) else shipped.get(sweep)
    if file is None:
        raise unknown_name("sweep", sweep, sorted(shipped))
    if not file.is_file():
        raise OptionError(f"{file} is not a file; expected a sweep in YAML, or one of {', '.join(sorted(shipped))}.")
    plan = sweeps.load_sweep(file)
    recipes = [cell.recipe or recipe or plan.recipe for cell in plan.cells]
    settings = [[*plan.settings, *cell.settings, *override] for cell in plan.cells]
    if dry_run:
        for cell, name, changes in zip(plan.cells, recipes, settings):
            print(train_command(name, data, out / sweeps.folder_name(cell) / "train", changes))
        return
    configs = [load_config(find_recipe(name), changes) for name, changes in zip(recipes, settings)]
    protocol = with_overrides(PointProtocol(clicks=(1, 2, 3, 5), boxes=False), points)
    task = PointTask(truth, "model", protocol, ModelChoice("", device, precision), max_photos, domains())
    streams = any(config.stream for config in configs)
    who = workforce(workers, engine, ray_address, device)
    table = sweeps.run_sweep(plan, configs, lambda: read_photos(data, streams), task, out, who, print)
    print("\n" + text(table) + f"\n\n{out / 'sweep.png'}")


SWEEPS = Path(__file__).resolve().parent.parent / "recipes" / "ablations"


def train_command(recipe: str, data: list[Path], out: Path, settings: list[str]) -> str:
    """`anymask train …` for a shell."""
    import shlex

    words = ["anymask", "train", "--config", recipe]
    words += [word for path in data for word in ("--data", str(path))] + ["--out", str(out)]
    return shlex.join(words + [word for setting in settings for word in ("--set", setting)])
