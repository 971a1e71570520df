"""Discs on noise as photos with masks, and a store of them, for tests of the data engine's loop."""

from __future__ import annotations

from pathlib import Path

from train_data import write_discs

from anymask.engine.stages import begin_stage, remaining_images
from anymask.engine.store import Store, make_store
from anymask.engine.truth import Truth, add_truth_photos, read_truth


def disc_store(folder: Path, num_photos: int = 4) -> tuple[Store, int, Truth]:
    """A store in `folder` with `num_photos` photos of discs and no task yet, its project, the truth."""
    truth = read_truth([write_discs(folder / "discs", num_photos)])
    store = make_store(folder / "masks.db")
    project = store.project_id()
    assert add_truth_photos(store, project, truth.photos.values(), folder / "photos") == num_photos
    return store, project, truth


def stage_one(store: Store, project: int, num_photos: int | None = None) -> None:
    """Annotation tasks of stage 1 for the first photos."""
    begin_stage(store, project, 1, remaining_images(store, project)[:num_photos])
