"""What computing took, by round and kind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "costs",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id", name="fk_costs_project_id_projects"), nullable=False),
        sa.Column("round_id", _ID, sa.ForeignKey("rounds.id", name="fk_costs_round_id_rounds"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("num_photos", sa.Integer, nullable=False),
        sa.Column("cpu_seconds", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ix_costs_project_id", "costs", ["project_id"])
