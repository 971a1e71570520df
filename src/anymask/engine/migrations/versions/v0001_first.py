"""The first schema. Frozen: what changes later is a migration of its own, never an edit of this file."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None

AUTHORS = ("person", "model", "import")
MASK_STATES = ("proposed", "accepted", "rejected")
TASK_STATES = ("open", "done", "skipped")
ACTIONS = ("accept", "edit", "reject", "undo")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = BigInteger().with_variant(Integer, "sqlite")


def _one_of(column: str, names: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(map(repr, names))})", name=column)


def _reference(column: str, target: str, *, required: bool = True) -> Column:
    return Column(column, _Id, ForeignKey(target), nullable=not required)


projects = Table(
    "projects",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text),
    _reference("parent_id", "model_versions.id", required=False),
    Column("facts", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("promoted_at", Double),
    UniqueConstraint("project_id", "name"),
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    Column("number", Integer, nullable=False),
    Column("stage", Integer, nullable=False),
    _reference("model_version_id", "model_versions.id", required=False),
    Column("facts", JSON, nullable=False),
    Column("started_at", Double, nullable=False),
    UniqueConstraint("project_id", "number"),
)

images = Table(
    "images",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    Column("place", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("height", Integer),
    Column("width", Integer),
    Column("problem", Text),
    Column("added_at", Double, nullable=False),
    UniqueConstraint("project_id", "sha256"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    _reference("image_id", "images.id"),
    _reference("round_id", "rounds.id"),
    Column("kind", Text, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("not_for", Text),
    Column("state", Text, nullable=False),
    Column("holder", Text),
    Column("token", Text),
    Column("leased_at", Double),
    Column("leased_until", Double),
    Column("num_leases", Integer, nullable=False),
    Column("seconds", Float),
    Column("done_at", Double),
    Column("done_by", Text),
    Column("created_at", Double, nullable=False),
    _one_of("state", TASK_STATES),
    UniqueConstraint("image_id", "kind", "round_id"),
    Index(None, "project_id", "kind", "state", "priority", "id"),
    Index(None, "holder"),
)

masks = Table(
    "masks",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    _reference("image_id", "images.id"),
    _reference("round_id", "rounds.id"),
    _reference("task_id", "tasks.id", required=False),
    _reference("parent_id", "masks.id", required=False),
    Column("version", Integer, nullable=False),
    Column("is_current", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("author_kind", Text, nullable=False),
    Column("author", Text, nullable=False),
    _reference("model_version_id", "model_versions.id", required=False),
    Column("rle", LargeBinary, nullable=False),
    Column("num_px", BigInteger, nullable=False),
    Column("prompts", JSON),
    Column("predicted_iou", Float),
    Column("stability_score", Float),
    Column("seconds", Float),
    Column("label", Text),
    Column("created_at", Double, nullable=False),
    _one_of("state", MASK_STATES),
    _one_of("author_kind", AUTHORS),
    UniqueConstraint("parent_id"),
    Index(None, "image_id", "is_current"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    _reference("mask_id", "masks.id"),
    Column("action", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("note", Text),
    Column("seconds", Float),
    Column("state_before", Text, nullable=False),
    _reference("new_mask_id", "masks.id", required=False),
    _reference("undoes_id", "reviews.id", required=False),
    Column("created_at", Double, nullable=False),
    _one_of("action", ACTIONS),
    UniqueConstraint("undoes_id"),
    Index(None, "mask_id"),
    Index(None, "project_id", "action"),
)


def upgrade() -> None:
    """Make the tables."""
    metadata.create_all(op.get_bind(), checkfirst=False)
