"""What the commands of `anymask engine` share: how a store and a project are named and opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anymask.engine.store import Store

Database = Annotated[str, typer.Argument(metavar="DB", help="SQLite file, or postgresql://user@host/name.")]
Project = Annotated[str | None, typer.Option("--project", "-p", help="Which project; needed where there are several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_project(database: str, project: str | None) -> tuple[Store, int]:
    """The store and the project's id. Raises MissingExtraError, StoreError, or OptionError for the name."""
    from anymask.engine.store import open_store

    require_parts()
    store = open_store(database)
    return store, store.project_id(project)


def require_parts() -> None:
    """MissingExtraError where the store's libraries are not installed."""
    from importlib.util import find_spec

    from anymask.core.errors import MissingExtraError

    if find_spec("sqlalchemy") is None or find_spec("alembic") is None:
        raise MissingExtraError("the store needs SQLAlchemy and Alembic: pip install 'anymask[engine]'.")
