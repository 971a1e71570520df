"""`anymask train`: masks of your own in, a checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.core.errors import InputError, OptionError, unknown_name

if TYPE_CHECKING:
    from anymask.data.readers import Photo


def train(
    config: Annotated[str, typer.Option(help="A recipe by name (`lite`, `finetune`), or a YAML file.")],
    data: Annotated[
        list[Path], typer.Option(help="Photos with masks: SA-1B, COCO, VOC, DAVIS, BSDS500, folders. May repeat.")
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run, default `runs/<recipe>`; an old run there goes on."),
    ] = None,
    override: Annotated[list[str], typer.Option("--set", help="Override, such as `lr=1e-4`. May repeat.")] = [],  # noqa: B006
    stop_at: Annotated[int | None, typer.Option(help="Leave after this step; run again to go on.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make a few steps, print parameters, memory and time, save nothing.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with a run although its configuration was another.")
    ] = False,
) -> None:
    """Train with the paper's interactive rounds; stop it any time, the same command goes on where it was.

    Several processes: `torchrun --nproc-per-node 8 -m anymask train …`.

    **Example**

    `anymask train --config finetune --data my_photos/ --out runs/mine --set lr=1e-4`
    """
    from anymask.train.config import load_config
    from anymask.train.loop import Trainer

    recipe = find_recipe(config)
    settings = load_config(recipe, override)
    paths = data or [Path(path) for path in settings.data]
    if not paths:
        raise OptionError("no data: give --data with photos and masks, or data: [...] in the recipe.")
    trainer = Trainer(settings, read_photos(paths, settings.stream), out or Path("runs") / recipe.stem)
    if not dry_run:
        trainer.run(stop_at, accept_changes)
        return
    from anymask.train.dry_run import estimate

    measured = estimate(trainer)
    if trainer.processes.is_first:
        print(measured)


def read_photos(paths: list[Path], stream: bool) -> Sequence[Photo]:
    """All photos in memory, or with `stream` an index of them. Raises InputError where none has a mask."""
    from anymask.data.readers import index_shards, layout_of, open_dataset
    from anymask.weights.catalog import cache_folder

    names = ", ".join(map(str, paths))
    if stream:
        other = [f"{path} ({layout})" for path in paths if (layout := layout_of(path)) != "SA-1B shards"]
        if other:
            raise OptionError(f"stream reads SA-1B tar shards; {', '.join(other)}: leave stream out, or pack it first.")
        return index_shards(paths, cache_folder().parent / "shards", print)
    photos = [photo for path in paths for photo in open_dataset(path)]
    if not photos:
        raise InputError(f"no photos in {names}; look with: anymask data check.")
    if not any(photo.rles for photo in photos):
        raise InputError(f"none of the {len(photos)} photos in {names} has a mask.")
    return photos


def find_recipe(name: str) -> Path:
    """A YAML file, or the path of a recipe that ships with the package."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"{name} is not a file; expected a recipe in YAML, or one of {recipe_names()}.")
        return Path(name)
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    return _recipes() / f"{name}.yaml"


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    return sorted(p.stem for p in _recipes().glob("*.yaml"))


def _recipes() -> Path:
    return Path(__file__).resolve().parent.parent / "recipes"
