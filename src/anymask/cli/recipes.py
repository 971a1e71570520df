"""`anymask recipes`: the training configurations that ship with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.train import find_recipe, recipe_names
from anymask.core.errors import InputError

app = typer.Typer(help="Training recipes: list, show, copy.", no_args_is_help=True)


@app.command("list")
def list_recipes() -> None:
    """Name and first line of every recipe.

    **Example**

    `anymask recipes list`
    """
    for name in recipe_names():
        first = find_recipe(name).read_text().splitlines()[0].lstrip("# ")
        print(f"{name:17} {first}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A recipe's name.")]) -> None:
    """Print a recipe.

    **Example**

    `anymask recipes show lite`
    """
    print(find_recipe(name).read_text(), end="")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A recipe's name.")],
    target: Annotated[Path, typer.Argument(help="Where to; a new file.")],
) -> None:
    """Copy a recipe to change it, then `anymask train --config FILE`.

    **Example**

    `anymask recipes copy lite mine.yaml`
    """
    if target.exists():
        raise InputError(f"{target} exists already; choose another name.")
    shutil.copyfile(find_recipe(name), target)
    print(f"{target}: edit it, then anymask train --config {target} --data … --out …")
