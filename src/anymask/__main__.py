"""`python -m anymask` is the `anymask` command."""

from anymask.cli.main import run

run()
