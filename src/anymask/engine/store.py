"""The store: projects, their rounds and models, photos, and reading masks. Tasks and reviews are rooms beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from anymask.core.errors import InputError, StateError, unknown_name
from anymask.engine.database import check_schema, connect, database_time, transaction, upgrade
from anymask.engine.records import NewImage, Round, StoredImage, StoredMask
from anymask.engine.tables import STAGES, images, masks, model_versions, projects, rounds

_AT_ONCE = 500  # rows fetched or looked up in one statement


def open_store(place: str | Path) -> Store:
    """The store in a SQLite file or at a URL (`postgresql://user@host/name`).

    Raises StoreError where there is none or its schema is not this version's.
    """
    engine = connect(place)
    try:
        check_schema(engine)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)


def make_store(place: str | Path, project: str = "default") -> Store:
    """The store at a place, made or upgraded where needed, with a project of this name. May be repeated."""
    engine = connect(place)
    store = Store(engine)
    try:
        upgrade(engine)
        if project not in store.project_names():
            store.add_project(project)
    except BaseException:
        store.close()
        raise
    return store


@dataclass(frozen=True)
class Store:
    """A database with the current schema. Safe to use from several threads; processes open one each."""

    engine: Engine

    def transaction(self, *, writes: bool = False) -> AbstractContextManager[Connection]:
        """One step that happens as a whole or not at all."""
        return transaction(self.engine, writes=writes)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def project_names(self) -> list[str]:
        """All projects, oldest first."""
        with self.transaction() as connection:
            return list(connection.scalars(select(projects.c.name).order_by(projects.c.id)))

    def add_project(self, name: str) -> int:
        """A new project in round 1, stage 1; returns its id. InputError where the name is taken or empty."""
        if not name.strip():
            raise InputError("a project needs a name.")
        with self.transaction(writes=True) as connection:
            if connection.scalar(select(projects.c.id).where(projects.c.name == name)):
                raise InputError(f"there is a project {name!r} already; choose another name.")
            values = {"name": name, "created_at": database_time()}
            project_id = _new_id(connection, projects, values)
            _add_round(connection, project_id, 1, 1, None, {})
            return project_id

    def project_id(self, name: str | None = None) -> int:
        """A project by name; without one, the only project there is. OptionError lists what is there."""
        names = self.project_names()
        if name is None and len(names) == 1:
            name = names[0]
        if name is None or name not in names:
            if name is None:
                raise InputError(f"the store has {len(names)} projects, name one: {', '.join(names)}.")
            raise unknown_name("project", name, names)
        with self.transaction() as connection:
            return connection.execute(select(projects.c.id).where(projects.c.name == name)).scalar_one()

    def current_round(self, project_id: int) -> Round:
        """The latest round of a project."""
        with self.transaction() as connection:
            return current_round(connection, project_id)

    def start_round(
        self,
        project_id: int,
        stage: int,
        model_version_id: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Round:
        """Begin the next round. facts: thresholds and what else decides about its masks."""
        if stage not in STAGES:
            raise unknown_name("stage", str(stage), [f"{number}" for number in STAGES])
        with self.transaction(writes=True) as connection:
            return next_round(connection, project_id, stage, model_version_id, facts)

    def add_model_version(
        self,
        project_id: int,
        name: str,
        path: str,
        *,
        sha256: str | None = None,
        parent_id: int | None = None,
        facts: Mapping[str, Any] | None = None,
        promoted: bool = False,
    ) -> int:
        """Record a model; returns its id. facts: data set, recipe, scores. promoted: it serves from now on.

        InputError where the name is taken.
        """
        table = model_versions.c
        with self.transaction(writes=True) as connection:
            taken = select(table.id).where(table.project_id == project_id, table.name == name)
            if connection.scalar(taken):
                raise InputError(f"there is a model version {name!r} already; versions never change, name a new one.")
            values = {
                "project_id": project_id,
                "name": name,
                "path": path,
                "sha256": sha256,
                "parent_id": parent_id,
                "facts": dict(facts or {}),
                "created_at": database_time(),
                "promoted_at": database_time() if promoted else None,
            }
            return _new_id(connection, model_versions, values)

    def promote_model(self, model_version_id: int) -> None:
        """Make a version the one that serves its project. StateError where there is no such version."""
        with self.transaction(writes=True) as connection:
            change = update(model_versions).where(model_versions.c.id == model_version_id)
            if connection.execute(change.values(promoted_at=database_time())).rowcount != 1:
                raise StateError(f"there is no model version {model_version_id}.")

    def current_model(self, project_id: int) -> Mapping[str, Any] | None:
        """The version promoted last, a row of `model_versions`; None before the first."""
        table = model_versions.c
        with self.transaction() as connection:
            query = select(model_versions).where(table.project_id == project_id, table.promoted_at.is_not(None))
            row = connection.execute(query.order_by(table.promoted_at.desc(), table.id.desc())).first()
        return None if row is None else row._asdict()

    def add_images(self, project_id: int, new: Iterable[NewImage]) -> tuple[list[int], int]:
        """Add photos in one step; returns the ids of those that are new, and how many were there already.

        A photo is known by its content: under another path it is the same, and its place is brought up to date where
        the old one is gone.
        """
        with self.transaction(writes=True) as connection:
            return insert_images(connection, project_id, new)

    def images(self, project_id: int, after_id: int = 0) -> Iterator[StoredImage]:
        """All photos in the order they were added; a few hundred are held at a time."""
        while True:
            with self.transaction() as connection:
                query = select(images).where(images.c.project_id == project_id, images.c.id > after_id)
                found = connection.execute(query.order_by(images.c.id).limit(_AT_ONCE)).all()
            yield from map(image_of, found)
            if len(found) < _AT_ONCE:
                return
            after_id = found[-1].id

    def image(self, image_id: int) -> StoredImage:
        """One photo. StateError where there is none of this id."""
        with self.transaction() as connection:
            row = connection.execute(select(images).where(images.c.id == image_id)).first()
        if row is None:
            raise StateError(f"there is no image {image_id} in the store.")
        return image_of(row)

    def masks(self, image_ids: Sequence[int], *, all_versions: bool = False) -> list[StoredMask]:
        """Masks of some photos in the order they were made, rejected ones too; by default the current versions."""
        found = []
        with self.transaction() as connection:
            for start in range(0, len(image_ids), _AT_ONCE):
                query = (
                    select(masks, images.c.height, images.c.width)
                    .join(images, images.c.id == masks.c.image_id)
                    .where(masks.c.image_id.in_(image_ids[start : start + _AT_ONCE]))
                )
                if not all_versions:
                    query = query.where(masks.c.is_current)
                rows = connection.execute(query.order_by(masks.c.id)).mappings()
                found += [StoredMask.of(dict(row), (row["height"], row["width"])) for row in rows]
        return found


def insert_images(connection: Connection, project_id: int, new: Iterable[NewImage]) -> tuple[list[int], int]:
    """What `Store.add_images` does, as part of a larger step."""
    unique = list({image.sha256: image for image in new}.values())
    added = []
    connection.execute(select(projects.c.id).where(projects.c.id == project_id).with_for_update(key_share=True))
    known = _places_by_hash(connection, project_id, [image.sha256 for image in unique])
    for image in unique:
        if image.sha256 not in known:
            added.append(_new_id(connection, images, _image_row(project_id, image)))
            continue
        image_id, place = known[image.sha256]
        if place != image.place and not Path(place).exists():
            connection.execute(update(images).where(images.c.id == image_id).values(place=image.place))
    return added, len(unique) - len(added)


def current_round(connection: Connection, project_id: int) -> Round:
    """The latest round of a project; StateError where there is no such project."""
    query = select(rounds).where(rounds.c.project_id == project_id).order_by(rounds.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    if row is None:
        raise StateError(f"there is no project {project_id} in the store.")
    return Round(row.id, project_id, row.number, row.stage, row.model_version_id)


def next_round(
    connection: Connection,
    project_id: int,
    stage: int,
    model_version_id: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Round:
    """What `Store.start_round` does, as part of a larger step."""
    connection.execute(select(projects.c.id).where(projects.c.id == project_id).with_for_update(key_share=True))
    number = current_round(connection, project_id).number + 1
    _add_round(connection, project_id, number, stage, model_version_id, dict(facts or {}))
    return current_round(connection, project_id)


def image_of(row: Row) -> StoredImage:
    """From a row of the table `images`."""
    hw = None if row.height is None else (row.height, row.width)
    return StoredImage(row.id, row.place, row.sha256, hw, row.problem)


def _new_id(connection: Connection, table: Any, values: Mapping[str, Any]) -> int:
    return connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()


def _add_round(
    connection: Connection, project_id: int, number: int, stage: int, model_version_id: int | None, facts: dict
) -> None:
    values = {
        "project_id": project_id,
        "number": number,
        "stage": stage,
        "model_version_id": model_version_id,
        "facts": facts,
        "started_at": database_time(),
    }
    connection.execute(insert(rounds).values(**values))


def _places_by_hash(connection: Connection, project_id: int, hashes: list[str]) -> dict[str, tuple[int, str]]:
    known: dict[str, tuple[int, str]] = {}
    for start in range(0, len(hashes), _AT_ONCE):
        query = select(images.c.sha256, images.c.id, images.c.place).where(
            images.c.project_id == project_id, images.c.sha256.in_(hashes[start : start + _AT_ONCE])
        )
        known |= {row.sha256: (row.id, row.place) for row in connection.execute(query)}
    return known


def _image_row(project_id: int, image: NewImage) -> dict[str, Any]:
    height, width = image.hw or (None, None)
    return {
        "project_id": project_id,
        "place": image.place,
        "sha256": image.sha256,
        "num_bytes": image.num_bytes,
        "height": height,
        "width": width,
        "problem": image.problem,
        "added_at": database_time(),
    }
