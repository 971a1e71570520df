"""Alembic's environment: `database.upgrade` runs it, in one transaction."""
