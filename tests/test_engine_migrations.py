"""Proves: every older schema becomes today's with its rows kept; a schema from the future or of others is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from test_engine_store import a_mask, place, server  # noqa: F401 - fixtures

from anymask.core.errors import StoreError
from anymask.engine.database import connect, revisions, transaction, upgrade
from anymask.engine.store import make_store, open_store
from anymask.engine.tables import metadata
from anymask.engine.versions import add_masks

OLD_ROWS = """
INSERT INTO projects (id, name, created_at) VALUES (1, 'street', 5);
INSERT INTO rounds (id, project_id, number, stage, facts, started_at) VALUES (1, 1, 1, 1, '{}', 5);
INSERT INTO images (id, project_id, place, sha256, num_bytes, height, width, added_at)
  VALUES (1, 1, '/a.jpg', 'ff', 9, 24, 32, 5);
INSERT INTO masks (id, project_id, image_id, round_id, version, is_current, state, stage, author_kind, author, rle,
  num_px, created_at) VALUES (1, 1, 1, 1, 1, true, 'proposed', 1, 'person', 'anna', :rle, 45, 5)
"""


def test_the_first_schema_is_upgraded_and_keeps_its_masks(place: str) -> None:  # noqa: F811
    engine = connect(place)
    assert upgrade(engine, revisions()[0]) == (None, "0001")
    with transaction(engine, writes=True) as connection:
        for statement in OLD_ROWS.split(";\n"):
            values = {"rle": a_mask().counts} if ":rle" in statement else {}
            connection.execute(text(statement), values)
    with pytest.raises(StoreError, match=r"schema 0001.*engine init"):
        open_store(place)
    assert upgrade(engine) == ("0001", revisions()[-1])
    engine.dispose()
    store = open_store(place)
    (mask,) = store.masks([1])
    assert (mask.author, mask.rle) == ("anna", a_mask().rle)
    store.close()


def test_migrations_lead_to_the_tables_that_the_code_uses(place: str) -> None:  # noqa: F811
    store = make_store(place)
    with store.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert upgrade(store.engine) == (revisions()[-1], revisions()[-1])
    store.close()


def test_a_schema_from_the_future_is_refused_and_left_alone(place: str) -> None:  # noqa: F811
    store = make_store(place)
    with store.transaction(writes=True) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (open_store, make_store):
        with pytest.raises(StoreError, match=r"9999.*newer anymask"):
            attempt(place)
    with store.transaction() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    store.close()


def test_tables_of_something_else_are_left_alone(place: str) -> None:  # noqa: F811
    engine = connect(place)
    with transaction(engine, writes=True) as connection:
        connection.execute(text("CREATE TABLE cats (name text)"))
    with pytest.raises(StoreError, match="tables of something else"):
        make_store(place)
    engine.dispose()


def test_migrations_are_numbered_and_shipped() -> None:
    assert revisions() == [f"{number:04d}" for number in range(1, len(revisions()) + 1)]
    folder = Path(add_masks.__code__.co_filename).parent / "migrations"
    assert {"env.py", "__init__.py"} <= {path.name for path in folder.iterdir()}
