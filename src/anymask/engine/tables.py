"""The tables of the store, as SQLAlchemy 2 Core; migrations bring a database here from any earlier schema.

    projects ─┬─ model_versions
              ├─ rounds (number 1, 2 …; a stage of the paper and the model that served it)
              │    └─ costs (what computing took, by kind)
              └─ images ─┬─ masks (immutable versions: an edit is a new row that names its parent)
                         │    └─ reviews (accept, edit, reject, undo)
                         └─ tasks (annotate, review …; leased to one worker at a time)

Times are seconds since 1970 in UTC by the database's clock. `seconds` columns are durations.
"""

from __future__ import annotations

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

STAGES = {0: "imported", 1: "assisted-manual", 2: "semi-automatic", 3: "automatic"}
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

_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only for INTEGER PRIMARY KEY


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
    Column("path", Text, nullable=False),  # of the checkpoint, or the name of a preset
    Column("sha256", Text),
    _reference("parent_id", "model_versions.id", required=False),
    Column("facts", JSON, nullable=False),  # data set, recipe, scores on the held-out split
    Column("created_at", Double, nullable=False),
    Column("promoted_at", Double),  # the latest promoted one is current
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
    Column("facts", JSON, nullable=False),  # thresholds and whatever else decided about its masks
    Column("started_at", Double, nullable=False),
    UniqueConstraint("project_id", "number"),
)

images = Table(
    "images",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    Column("place", Text, nullable=False),  # full path; photos stay where they are
    Column("sha256", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("height", Integer),
    Column("width", Integer),
    Column("problem", Text),  # why it cannot be read; such a photo gets no tasks
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
    Column("priority", Integer, nullable=False),  # smaller comes first
    Column("not_for", Text),  # a worker who must not get it: reviews go to somebody else
    Column("state", Text, nullable=False),
    Column("holder", Text),
    Column("token", Text),  # of the lease; a new one for each
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
    Column("version", Integer, nullable=False),  # 1 for the first
    Column("is_current", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("author_kind", Text, nullable=False),
    Column("author", Text, nullable=False),
    _reference("model_version_id", "model_versions.id", required=False),
    Column("rle", LargeBinary, nullable=False),  # COCO's compressed counts; the size is the image's
    Column("num_px", BigInteger, nullable=False),
    Column("prompts", JSON),  # clicks, box, crop: as the caller gives them
    Column("predicted_iou", Float),
    Column("stability_score", Float),
    Column("seconds", Float),  # a person's time on this version
    Column("label", Text),
    Column("save_key", Text),  # the caller's name for one save: a repeated save is recognised
    Column("created_at", Double, nullable=False),
    _one_of("state", MASK_STATES),
    _one_of("author_kind", AUTHORS),
    UniqueConstraint("parent_id"),  # a version has one successor: of two edits at once, one is told
    Index("uq_masks_save", "image_id", "save_key", unique=True),
    Index(None, "image_id", "is_current"),
    Index(  # holds all that reports count, so they never touch the masks themselves
        "ix_masks_report",
        "project_id",
        "round_id",
        "stage",
        "is_current",
        "state",
        "author_kind",
        "image_id",
        "version",
        "seconds",
    ),
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
    _reference("new_mask_id", "masks.id", required=False),  # what an edit, or the undo of one, made
    _reference("undoes_id", "reviews.id", required=False),
    Column("created_at", Double, nullable=False),
    _one_of("action", ACTIONS),
    UniqueConstraint("undoes_id"),
    Index(None, "mask_id"),
    Index(None, "project_id", "action"),
)

costs = Table(
    "costs",
    metadata,
    Column("id", _Id, primary_key=True),
    _reference("project_id", "projects.id"),
    _reference("round_id", "rounds.id"),
    Column("kind", Text, nullable=False),
    Column("num_photos", Integer, nullable=False),
    Column("cpu_seconds", Double, nullable=False),
    Column("seconds", Double, nullable=False),  # by the clock
    Column("created_at", Double, nullable=False),
    Index(None, "project_id"),
)
