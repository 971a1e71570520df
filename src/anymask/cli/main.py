"""The `anymask` command: collects the families of verbs and turns our errors into one plain line."""

from __future__ import annotations

import os
import sys

import typer

from anymask.cli import (
    ablation,
    convert,
    data,
    engine,
    engine_loop,
    engine_run,
    evaluate,
    evaluate_truth,
    everything,
    export,
    models,
    predict,
    prepare,
    ratings,
    recipes,
    serve,
    train,
)
from anymask.core.errors import AnymaskError, InputError

app = typer.Typer(
    name="anymask",
    help="Segment Anything, whole and open: click a photo, get the mask.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("predict", no_args_is_help=True)(predict.predict)
app.command("everything", no_args_is_help=True)(everything.everything)
app.command("convert", no_args_is_help=True)(convert.convert)
app.add_typer(export.app, name="export")
app.command("serve")(serve.serve)
app.add_typer(models.app, name="models")
app.command("train", no_args_is_help=True)(train.train)
app.add_typer(recipes.app, name="recipes")
data.app.command("prepare", no_args_is_help=True)(prepare.prepare)
app.add_typer(data.app, name="data")
engine_loop.add_to(engine.app)
engine_run.add_to(engine.app)
app.add_typer(engine.app, name="engine")
evaluate_truth.add_to(evaluate.app)
evaluate.app.command("ablation", no_args_is_help=True)(ablation.ablation)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(ratings.app, name="ratings")

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from anymask import __version__

        print(f"anymask {__version__}")
        raise typer.Exit


def run() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 the command or its input cannot be used, 130 interrupted."""
    try:
        app()
    except InputError as error:
        _fail(error, EXIT_USAGE)
    except AnymaskError as error:
        _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        print("anymask: interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as in `anymask … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:  # an unwritable folder, a full disk
        _fail(error, EXIT_FAILED)


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("ANYMASK_DEBUG"):
        raise error
    print(f"anymask: {error}", file=sys.stderr)
    sys.exit(code)
