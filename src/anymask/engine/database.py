"""A database by path or URL: connections set up for many writers, transactions that fail in words, the schema.

SQLite runs in WAL mode with foreign keys on and waits for other writers; every commit reaches the disk. PostgreSQL is
reached through psycopg. Both keep the time: what expires does so by one clock for all workers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Connection, Double, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from anymask.core.errors import InputError, MissingExtraError, StoreError

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS = 30  # how long a writer waits for the others on SQLite
_MIGRATIONS = Path(__file__).parent / "migrations"


class database_time(FunctionElement):  # noqa: N801 - a function in SQL
    """Seconds since 1970 by the database's clock, as an SQL expression."""

    type = Double()
    inherit_cache = True


@compiles(database_time, "sqlite")
def _sqlite_time(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_time, "postgresql")
def _postgresql_time(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


class whole_part(FunctionElement):  # noqa: N801 - a function in SQL
    """The largest whole number up to a positive value, as an SQL expression; SQLite may be built without `floor`."""

    type = BigInteger()
    inherit_cache = True


@compiles(whole_part, "sqlite")
def _sqlite_whole(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


@compiles(whole_part, "postgresql")
def _postgresql_whole(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST(floor({compiler.process(element.clauses, **options)}) AS BIGINT)"


def connect(place: str | Path) -> Engine:
    """An engine for a SQLite file or a URL (`postgresql://user@host/name`); nothing is opened yet.

    Raises InputError for a URL of another kind, MissingExtraError where psycopg is not installed.
    """
    text = str(place)
    if "://" not in text:
        text = f"sqlite:///{Path(text).expanduser()}"
    try:
        url = make_url(text)
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise InputError(f"{url.drivername} is not supported; expected a SQLite file or postgresql://….")
        if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
            raise InputError("a store needs a file or a server, so that several processes can share it.")
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        return create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError(f"{_hidden(text)} is no database; expected a SQLite file or postgresql://….") from error
    except ModuleNotFoundError as error:
        raise MissingExtraError("PostgreSQL needs psycopg: pip install 'anymask[engine]'.") from error


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """Writers queue up at the start: one that reads first and writes later could be refused halfway."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def transaction(engine: Engine, *, writes: bool = False) -> Iterator[Connection]:
    """A connection in a transaction that is committed at the end and rolled back on any error.

    Raises StoreError where the database fails: full, locked, gone, damaged.
    """
    try:
        with engine.connect().execution_options(writes=writes) as connection, connection.begin():
            yield connection
    except SQLAlchemyError as error:
        raise StoreError(_in_words(error, engine)) from error


def _in_words(error: SQLAlchemyError, engine: Engine) -> str:
    where = _hidden(engine.url.render_as_string(hide_password=False)).removeprefix("sqlite:///")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    reason = " ".join(str(cause).split())
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    advice = "Nothing of this step was kept; what was saved before is there."
    if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR or getattr(cause, "sqlstate", None) == "53100":
        advice = "The disk is full or not writable. Make room and save again; what was saved before is there."
    elif code == sqlite3.SQLITE_BUSY:
        advice = f"Another process has been writing for over {BUSY_SECONDS} s. Save again, or end it."
    elif code == sqlite3.SQLITE_CANTOPEN:
        advice = "Check the path and its permissions."
    elif code == sqlite3.SQLITE_NOTADB:
        advice = "Expected a file that `anymask engine init` made."
    return f"{where}: {reason}. {advice}"


def _hidden(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string()
    except ArgumentError:
        return url


def revisions() -> list[str]:
    """Names of the schemas that this version knows, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


def schema_of(connection: Connection) -> str | None:
    """Name of the schema of a database; None for an empty one. StoreError for tables that are not ours."""
    from alembic.migration import MigrationContext

    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None and inspect(connection).get_table_names():
        raise StoreError("this database holds tables of something else; give the store one of its own.")
    return revision


def check_schema(engine: Engine) -> None:
    """Raises StoreError unless the schema is the one this version works with."""
    _check_file(engine)
    with transaction(engine) as connection:
        found = schema_of(connection)
    known = revisions()
    if found is None:
        raise StoreError(f"there is no store in {engine.url.database}; run `anymask engine init` first.")
    if found not in known:
        raise _from_the_future(found, known)
    if found != known[-1]:
        raise StoreError(
            f"the store has schema {found}, this version works with {known[-1]}: copy the database to a safe place, "
            "then run `anymask engine init` on it, which upgrades and keeps everything."
        )


def upgrade(engine: Engine, to: str = "head") -> tuple[str | None, str]:
    """Make the schema, or bring an older one up to date, in one transaction; returns the schema before and after.

    Several processes may do so at once. Raises StoreError for a schema this version does not know.
    """
    from alembic import command

    if engine.dialect.name == "sqlite":
        folder = Path(str(engine.url.database)).parent
        if not folder.is_dir():
            raise StoreError(f"cannot make {engine.url.database}: there is no folder {folder}. Create it first.")
    known = revisions()
    with transaction(engine, writes=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(5127040)")
        before = schema_of(connection)
        if before is not None and before not in known:
            raise _from_the_future(before, known)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        return before, schema_of(connection) or ""


def _check_file(engine: Engine) -> None:
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).is_file():
        raise StoreError(f"there is no file {engine.url.database}; run `anymask engine init` first.")


def _from_the_future(found: str, known: list[str]) -> StoreError:
    return StoreError(
        f"the store has schema {found}, which this version does not know (it knows {known[0]} to {known[-1]}): a newer "
        "anymask wrote it. Install that one: pip install -U 'anymask[engine]'. Nothing was changed."
    )


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
