"""Which model serves a project: versions with their files' hashes, and a watch for a server that switches at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from anymask.core.errors import CheckpointError, StateError
from anymask.core.files import sha256_of
from anymask.engine.store import Store
from anymask.engine.tables import model_versions
from anymask.weights.catalog import is_model_name, require_local

if TYPE_CHECKING:
    from anymask.predict.segmenter import TorchSegmenter


@dataclass(frozen=True)
class ModelVersion:
    """A model as the store knows it. place: a weights file, or the name of a published model."""

    id: int
    name: str
    place: str
    sha256: str | None
    parent_id: int | None
    facts: Mapping[str, Any]
    is_promoted: bool

    @property
    def file(self) -> Path:
        """The weights file on this machine; CheckpointError where a published model has not been pulled."""
        return require_local(self.place) if is_model_name(self.place) else Path(self.place)


def first_version(store: Store, project_id: int, model: str = "lite") -> ModelVersion:
    """The model that serves a project; where there is none yet, `model` becomes version v0 and serves.

    model: a published model's name or a weights file.
    """
    return serving_version(store, project_id) or serve(store, project_id, model)


def serve(store: Store, project_id: int, model: str) -> ModelVersion:
    """Let a version of the project serve from now on, also an earlier one; or make a new version of other weights.

    model: a version's name, else a published model's name or a weights file. CheckpointError where there is neither.
    """
    known = {each.name: each for each in versions(store, project_id)}
    if model in known:
        store.promote_model(known[model].id)
        return version(store, known[model].id)
    is_published = is_model_name(model)
    file = require_local(model) if is_published else Path(model).expanduser().resolve()
    place, name = model if is_published else str(file), f"v{len(known)}"
    version_id = store.add_model_version(project_id, name, place, sha256=file_hash(file), promoted=True)
    return version(store, version_id)


def serving_version(store: Store, project_id: int) -> ModelVersion | None:
    """The version promoted last; None before the first."""
    row = store.current_model(project_id)
    return None if row is None else _version_of(row)


def version(store: Store, version_id: int) -> ModelVersion:
    """One version. StateError where there is none of this id."""
    with store.transaction() as connection:
        row = connection.execute(select(model_versions).where(model_versions.c.id == version_id)).first()
    if row is None:
        raise StateError(f"there is no model version {version_id} in the store.")
    return _version_of(row._asdict())


def versions(store: Store, project_id: int) -> list[ModelVersion]:
    """All versions, oldest first."""
    query = select(model_versions).where(model_versions.c.project_id == project_id).order_by(model_versions.c.id)
    with store.transaction() as connection:
        return [_version_of(row._asdict()) for row in connection.execute(query)]


def load_version(model: ModelVersion, device: str = "auto", precision: str = "auto") -> TorchSegmenter:
    """The model, ready to encode and decode. CheckpointError where its file is gone or is not what was recorded."""
    from anymask.model.precision import place
    from anymask.predict.segmenter import TorchSegmenter
    from anymask.weights.load import load_model

    file = model.file
    if model.sha256 is not None and file_hash(file) != model.sha256:
        raise CheckpointError(
            f"{file} has changed since it became version {model.name}. Put the file back, or retrain to make a new one."
        )
    return TorchSegmenter(place(load_model(file), device, precision))


class ModelWatch:
    """Tells a server when another version serves the project, so that it can switch without a restart."""

    def __init__(self, store: Store, project_id: int, serving_id: int | None = None) -> None:
        """serving_id: the version that the server has loaded; None where it has loaded none of the store's."""
        self._store, self._project_id, self._seen = store, project_id, serving_id

    def poll(self) -> ModelVersion | None:
        """The version to switch to, once; None while nothing has changed. One indexed query."""
        now = serving_version(self._store, self._project_id)
        if now is None or now.id == self._seen:
            return None
        self._seen = now.id
        return now


def file_hash(file: Path) -> str:
    """SHA-256 of a file in hex. CheckpointError where there is none."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}. Put it back, or name another model."
        ) from error


def _version_of(row: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(
        row["id"],
        row["name"],
        row["path"],
        row["sha256"],
        row["parent_id"],
        row["facts"],
        row["promoted_at"] is not None,
    )
