"""A save can be named, so that repeating it adds nothing; an index holds all that reports count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_REPORT = ("project_id", "round_id", "stage", "is_current", "state", "author_kind", "image_id", "version", "seconds")


def upgrade() -> None:
    """Add the column and both indices."""
    op.add_column("masks", sa.Column("save_key", sa.Text))
    op.create_index("uq_masks_save", "masks", ["image_id", "save_key"], unique=True)
    op.create_index("ix_masks_report", "masks", list(_REPORT))
