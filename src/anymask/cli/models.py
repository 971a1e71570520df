"""`anymask models`: which models there are, getting them, looking into files, changing formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, download, inspect and convert model weights.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Show the named models and which of them are on this machine.

    Example: anymask models list
    """
    from rich.console import Console
    from rich.table import Table

    from anymask.weights.catalog import CATALOG, cache_folder, local_path

    table = Table("name", "size", "licence", "here", "what it is")
    for entry in CATALOG.values():
        path = local_path(entry)
        here = "yes" if path.is_file() else "no"
        num_bytes = entry.num_bytes or (path.stat().st_size if path.is_file() else None)
        size = "-" if num_bytes is None else f"{num_bytes / 1e6:,.0f} MB"
        table.add_row(entry.name, size, entry.licence, here, entry.description)
    console = Console()
    console.print(table)
    console.print(f"downloads are kept in {cache_folder()} (ANYMASK_HOME changes it)", soft_wrap=True)


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="vit_b, vit_l or vit_h.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Download models; an interrupted download goes on where it stopped.

    Example: anymask models pull vit_b
    """
    from anymask.weights.catalog import find_entry
    from anymask.weights.pull import pull as pull_model

    for name in names:
        find_entry(name)  # a mistyped name is told before anything is downloaded
    for name in names:
        typer.echo(f"{name}: {pull_model(name, progress=not quiet)}")


@app.command()
def info(
    source: Annotated[
        str, typer.Argument(metavar="PATH_OR_NAME", help="A weights file, folder or model name.")
    ],
) -> None:
    """Show what a weights file holds, without running anything in it.

    Example: anymask models info sam_vit_b_01ec64.pth
    """
    from anymask.core.files import sha256_of
    from anymask.weights.catalog import is_model_name, require_local
    from anymask.weights.load import recognise
    from anymask.weights.read import read_weights
    from anymask.weights.remap import GAUSSIAN

    path = require_local(source) if is_model_name(source) else Path(source).expanduser()
    weights = read_weights(path)
    preset, decoder_depth = recognise(weights.state)
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in weights.state.values()})
    rows = {
        "path": str(path),
        "layout": weights.layout,
        "preset": preset,
        "decoder depth": str(decoder_depth),
        "tensors": str(len(weights.state)),
        "parameters": f"{sum(v.numel() for k, v in weights.state.items() if k != GAUSSIAN):,}",
        "dtype": ", ".join(dtypes),
        **{f"metadata {key}": value for key, value in sorted(weights.metadata.items())},
    }
    if path.is_file():
        rows["sha256"] = sha256_of(path)
    for key, value in rows.items():
        typer.echo(f"{key + ':':<24} {value}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A weights file, folder or model name.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help=".safetensors, .pth (official keys), or a folder name for Hugging Face."
        ),
    ],
    half: Annotated[bool, typer.Option("--half", help="Store float16 (.safetensors only).")] = False,
) -> None:
    """Rewrite weights in another format; the suffix of OUT decides which.

    Example: anymask models convert sam_vit_b_01ec64.pth vit_b.safetensors
    """
    from anymask.weights.catalog import is_model_name, require_local
    from anymask.weights.save import convert as convert_weights

    path = require_local(source) if is_model_name(source) else Path(source)
    typer.echo(convert_weights(path, target, half=half))
