"""`anymask train`: masks of your own in, a checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.core.errors import InputError, unknown_name


def train(
    config: Annotated[str, typer.Option(help="A recipe by name (`lite`), or a YAML file.")],
    data: Annotated[list[Path], typer.Option(help="Photos with masks: SA-1B, COCO, VOC, DAVIS, BSDS500, folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; an old run there goes on.")],
    override: Annotated[list[str], typer.Option("--set", help="Override, such as `lr=1e-4`. May repeat.")] = [],  # noqa: B006
    stop_at: Annotated[int | None, typer.Option(help="Leave after this step; run again to go on.")] = None,
) -> None:
    """Train with the paper's interactive rounds; stop it any time, the same command goes on where it was.

    **Example**

    `anymask train --config lite --data shards/ --out runs/lite --set lr=3e-4`
    """
    from anymask.data.readers import open_dataset
    from anymask.train.config import load_config
    from anymask.train.loop import Trainer

    photos = [photo for path in data for photo in open_dataset(path)]
    if not photos:
        raise InputError(f"no photos in {', '.join(map(str, data))}; look with: anymask data check.")
    Trainer(load_config(find_recipe(config), override), photos, out).run(stop_at=stop_at)


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
