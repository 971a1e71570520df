"""Proves of the store, on SQLite and on a real PostgreSQL: nothing is lost or doubled.

Tasks go to one worker at a time by the database's clock, saves are whole and may be repeated, versions are never
overwritten, reviews keep their history.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_places import postgresql_programs, postgresql_server
from engine_worker import some_masks
from sqlalchemy import create_engine, func, select, text, update

from anymask.core.errors import InputError, LeaseError, OptionError, StateError, StoreError
from anymask.core.rle import encode_one
from anymask.engine.leases import add_tasks, finish_task, next_task, release, renew, save_masks
from anymask.engine.records import NewImage, NewMask
from anymask.engine.report import make_report, status
from anymask.engine.reviews import history, review, undo
from anymask.engine.store import Store, make_store, open_store
from anymask.engine.tables import masks, tasks
from anymask.engine.versions import add_masks

HW = (24, 32)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="anymask-pg-") as folder, postgresql_server(programs, Path(folder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    url = request.getfixturevalue("server")
    name = f"t{uuid.uuid4().hex}"
    admin = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return url.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    store = make_store(place)
    yield store
    store.close()


def fill(store: Store, num: int) -> tuple[int, list[int]]:
    """A project with so many photos and tasks."""
    project = store.project_id()
    new = [NewImage(f"/photos/{i}.jpg", f"{i:064d}", 10, HW) for i in range(num)]
    ids, _ = store.add_images(project, new)
    assert add_tasks(store, project, ids) == num
    return project, ids


def a_mask(author: str = "anna", row: int = 0, **more: object) -> NewMask:
    mask = np.zeros(HW, dtype=bool)
    mask[row : row + 5, 3:12] = True
    return NewMask(encode_one(mask), author, **more)  # type: ignore[arg-type]


def count_masks(store: Store) -> int:
    with store.transaction() as connection:
        return connection.execute(select(func.count()).select_from(masks)).scalar_one()


def move_lease(store: Store, task_id: int, seconds: float) -> None:
    """As if the clock had jumped: the lease lies so many seconds later than it does."""
    with store.transaction(writes=True) as connection:
        times = {"leased_at": tasks.c.leased_at + seconds, "leased_until": tasks.c.leased_until + seconds}
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(**times))


def test_a_mask_comes_back_with_where_it_is_from(store: Store) -> None:
    project, (image_id,) = fill(store, 1)
    model = store.add_model_version(project, "round0", "lite", facts={"miou": 0.5})
    store.promote_model(model)
    assert store.current_model(project)["name"] == "round0"
    lease = next_task(store, project, "anna")
    prompts = {"points_xy": [[4.0, 2.0]], "labels": [1]}
    facts = {"prompts": prompts, "predicted_iou": 0.9, "stability_score": 0.8, "seconds": 14.0, "label": "cup"}
    (mask_id,) = save_masks(store, lease, [a_mask(model_version_id=model, **facts)])
    (mask,) = store.masks([image_id])
    assert mask.id == mask_id and mask.rle == a_mask().rle and mask.num_px == 45
    assert (mask.author_kind, mask.author, mask.stage, mask.version) == ("person", "anna", 1, 1)
    assert mask.model_version_id == model and mask.parent_id is None
    assert {name: getattr(mask, name) for name in facts} == facts


def test_two_annotators_never_get_one_task(store: Store) -> None:
    project, ids = fill(store, 40)
    taken: list[int] = []

    def work(name: str) -> None:
        while lease := next_task(store, project, name):
            save_masks(store, lease, some_masks(HW, name, 2, "k"), finish=True)
            taken.append(lease.image_id)

    threads = [threading.Thread(target=work, args=(f"worker{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == ids
    assert count_masks(store) == 80
    assert status(store, project).tasks == {"annotate": {"done": 40}}


def test_an_expired_lease_is_taken_over_and_the_late_save_refused(store: Store) -> None:
    project, (image_id,) = fill(store, 1)
    late = next_task(store, project, "anna")
    assert next_task(store, project, "bob") is None
    move_lease(store, late.task_id, -3600)
    lease = next_task(store, project, "bob")
    assert lease.image_id == image_id
    with pytest.raises(LeaseError, match=r"is with bob now.*was not saved"):
        save_masks(store, late, [a_mask()])
    with pytest.raises(LeaseError, match="bob"):
        renew(store, late)
    assert count_masks(store) == 0
    save_masks(store, lease, [a_mask("bob")], finish=True)
    with pytest.raises(LeaseError, match="finished by bob"):
        save_masks(store, late, [a_mask()])
    assert [mask.author for mask in store.masks([image_id])] == ["bob"]


def test_work_under_a_lease_that_ran_out_but_nobody_took_is_kept(store: Store) -> None:
    project, _ = fill(store, 1)
    lease = next_task(store, project, "anna")
    move_lease(store, lease.task_id, -3600)
    save_masks(store, lease, [a_mask()])
    assert next_task(store, project, "bob") is None, "the save extended the lease"


def test_a_clock_that_was_set_back_freezes_nothing(store: Store) -> None:
    project, _ = fill(store, 1)
    lease = next_task(store, project, "anna")
    move_lease(store, lease.task_id, 10 * 86400)
    assert next_task(store, project, "bob").task_id == lease.task_id


def test_a_worker_that_comes_back_gets_its_task_again_and_its_old_self_nothing(store: Store) -> None:
    project, _ = fill(store, 3)
    first = next_task(store, project, "anna")
    again = next_task(store, project, "anna")
    assert again.task_id == first.task_id and again.token != first.token
    with pytest.raises(LeaseError):
        save_masks(store, first, [a_mask()])
    release(store, again)
    assert next_task(store, project, "bob").task_id == first.task_id


def test_a_repeated_save_adds_nothing_even_after_the_lease(store: Store) -> None:
    project, (image_id,) = fill(store, 1)
    lease = next_task(store, project, "anna")
    new = [a_mask(save_key="one"), a_mask(row=3, save_key="two")]
    ids = save_masks(store, lease, new, finish=True, review=True)
    assert save_masks(store, lease, new, finish=True, review=True) == ids
    finish_task(store, lease)
    assert count_masks(store) == 2
    assert next_task(store, project, "anna", "review") is None, "nobody reviews their own masks"
    assert next_task(store, project, "bob", "review").image_id == image_id


def test_a_save_key_is_no_way_around_a_lease_or_to_another_mask(store: Store) -> None:
    project, _ = fill(store, 1)
    late = next_task(store, project, "anna")
    move_lease(store, late.task_id, -3600)
    lease = next_task(store, project, "bob")
    save_masks(store, lease, [a_mask("bob", save_key="one")])
    with pytest.raises(LeaseError, match="bob"):
        save_masks(store, late, [a_mask("anna", save_key="one")])
    with pytest.raises(StateError, match="names mask"):
        save_masks(store, lease, [a_mask("bob", row=7, save_key="one")])
    assert count_masks(store) == 1


def test_a_save_is_whole_or_not_at_all(store: Store) -> None:
    project, _ = fill(store, 1)
    lease = next_task(store, project, "anna")
    wrong = NewMask(encode_one(np.ones((7, 9), dtype=bool)), "anna")
    with pytest.raises(InputError, match=r"7×9 .* does not fit the photo of 24×32"):
        save_masks(store, lease, [a_mask(), wrong], finish=True)
    assert count_masks(store) == 0
    assert status(store, project).tasks == {"annotate": {"leased": 1}}


def test_of_two_edits_of_one_version_the_second_is_told(store: Store) -> None:
    _, (image_id,) = fill(store, 1)
    (mask_id,) = add_masks(store, image_id, [a_mask()])
    review(store, mask_id, "edit", "bob", edited=a_mask("bob", 2))
    with pytest.raises(StateError, match="changed meanwhile: bob saved version 2"):
        review(store, mask_id, "edit", "carl", edited=a_mask("carl", 4))
    versions = store.masks([image_id], all_versions=True)
    assert [(mask.version, mask.is_current, mask.author) for mask in versions] == [(1, False, "anna"), (2, True, "bob")]


def test_reviews_keep_their_history_and_can_be_undone(store: Store) -> None:
    project, (image_id,) = fill(store, 1)
    (mask_id,) = add_masks(store, image_id, [a_mask()])
    accepted = review(store, mask_id, "accept", "bob", seconds=2.0)
    rejected = review(store, mask_id, "reject", "carl", note="blurred")
    assert make_report(store, project).num_masks == 0
    with pytest.raises(StateError, match="undo the latest first"):
        undo(store, accepted, "bob")
    undo(store, rejected, "carl")
    with pytest.raises(StateError, match="undone already"):
        undo(store, rejected, "carl")
    assert [mask.state for mask in store.masks([image_id])] == ["accepted"]
    edited = review(store, mask_id, "edit", "bob", edited=a_mask("bob", 9))
    undo(store, edited, "bob")
    (mask,) = store.masks([image_id])
    assert (mask.version, mask.state, mask.author, mask.rle) == (3, "accepted", "anna", a_mask().rle)
    actions = [row["action"] for row in history(store, mask_id)]
    assert actions == ["accept", "reject", "undo", "edit", "undo"]
    assert history(store, mask.id) == history(store, mask_id)


def test_the_report_counts_by_hand(store: Store) -> None:
    project, ids = fill(store, 2)
    for row, seconds in enumerate((10.0, 30.0)):
        add_masks(store, ids[0], [a_mask(row=row, seconds=seconds)])
    second = store.start_round(project, 2)
    assert (second.number, second.stage_name) == (2, "semi-automatic")
    (prefilled,) = add_masks(store, ids[1], [a_mask("m1", author_kind="model")])
    added = add_masks(store, ids[1], [a_mask(row=1, seconds=34.0), a_mask(row=2, seconds=99.0)])
    review(store, added[1], "reject", "bob")
    review(store, prefilled, "accept", "bob")
    manual, semi = make_report(store, project).stages
    assert (manual.num_masks, manual.seconds_per_mask, manual.masks_per_image) == (2, 20.0, 2.0)
    assert (semi.num_masks, semi.num_by_models, semi.num_by_people, semi.num_rejected) == (2, 1, 1, 1)
    assert semi.num_accepted == 1 and semi.seconds_per_mask == pytest.approx(66.5)


def test_a_photo_is_known_by_its_content(store: Store, tmp_path: Path) -> None:
    project, ids = fill(store, 2)
    moved = NewImage(str(tmp_path / "moved.jpg"), f"{0:064d}", 10, HW)
    assert store.add_images(project, [moved]) == ([], 1)
    assert store.image(ids[0]).place == moved.place
    assert add_tasks(store, project, ids) == 0


def test_wrong_names_and_masks_are_refused(store: Store) -> None:
    with pytest.raises(OptionError, match="Known: default"):
        store.project_id("defualt")
    with pytest.raises(InputError, match="already"):
        store.add_project("default")
    with pytest.raises(InputError, match="empty"):
        NewMask(encode_one(np.zeros(HW, dtype=bool)), "anna")
    with pytest.raises(OptionError, match="author_kind"):
        a_mask(author_kind="robot")


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="engine init"):
        open_store(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(StoreError, match="no folder"):
        make_store(tmp_path / "nowhere" / "a.db")
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 20)
    with pytest.raises(StoreError, match="engine init"):
        open_store(tmp_path / "text.db")
    with pytest.raises(InputError, match="postgresql://"):
        open_store("mysql://somewhere/db")
