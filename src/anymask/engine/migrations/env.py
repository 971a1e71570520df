"""Run by Alembic. The connection, with its transaction begun, comes from `database.upgrade`."""

from __future__ import annotations

from alembic import context

from anymask.engine.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite too: a killed upgrade leaves the old schema
)
context.run_migrations()
