"""`anymask ratings`: the paper's rating study: people rate masks from 1 to 10 and do not know whose they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anymask.core.errors import OptionError

app = typer.Typer(help="Let people rate masks without knowing who made them.", no_args_is_help=True)


@app.command("init", no_args_is_help=True)
def init(
    study: Annotated[Path, typer.Argument(help="Folder for the study; made if needed.")],
    photos: Annotated[Path, typer.Option(help="Folder with the photos.")],
    method: Annotated[list[str], typer.Option(help="NAME=FOLDER with the masks of a method; once for each.")],
    wanted: Annotated[int, typer.Option(help="Ratings of each mask, by different people.")] = 1,
) -> None:
    """Make a study of masks that several methods made of the same photos.

    Masks at the same place of the methods' files answer the same prompt. Those under 24² pixels are left out.

    **Example**

    `anymask ratings init study --photos photos --method lite=masks --method truth=truth`
    """
    from anymask.evaluate.human_study import make_study

    if wanted < 1:
        raise OptionError(f"--wanted must be 1 or more, got {wanted}.")
    methods = {}
    for given in method:
        name, equals, folder = given.partition("=")
        if not name or not equals or not folder:
            raise OptionError(f"--method takes NAME=FOLDER, got {given!r}.")
        methods[name] = Path(folder)
    made = make_study(study, photos, methods, wanted)
    print(f"{len(made.jobs):,} masks of {len(made.photos):,} photos by {len(methods)} methods; next:")
    print(f"anymask serve --ratings {study}")


@app.command("results", no_args_is_help=True)
def show_results(
    study: Annotated[Path, typer.Argument(help="Folder of the study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every rating as CSV.")] = False,
) -> None:
    """Show mean ratings with 95 % bootstrap intervals, and differences in pairs with 99 %, as the paper has them.

    **Example**

    `anymask ratings results study --json`
    """
    from anymask.evaluate.human_study import open_study, results, to_csv

    opened = open_study(study)
    if as_csv:
        print(to_csv(opened), end="")
        return
    found = results(opened)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{opened.num_rated:,} of {len(opened.jobs):,} masks rated by {found['raters']} people")
    for row in found["methods"]:
        print(f"{row['method']:<24} {row['mean']:5.2f}  ({row['low']:.2f} … {row['high']:.2f})  {row['masks']:,} masks")
    for row in found["pairs"]:
        print(f"{row['of']} − {row['over']}: {row['mean']:+.2f}  ({row['low']:+.2f} … {row['high']:+.2f})")
