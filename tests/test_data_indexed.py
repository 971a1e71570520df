"""Shards read photo by photo: the same photos as all at once, and training that does not mind a broken one."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_data import write_discs

from anymask.core.errors import InputError
from anymask.data.loader import PromptDataset
from anymask.data.readers import DataError, index_shards, read_shards, set_sizes


def _pack(path: Path, members: list[tuple[str, bytes]], layout: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=layout) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]


@given(seed=st.integers(0, 99), pax=st.booleans(), depth=st.integers(0, 4))
def test_the_same_photos_in_the_same_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, pax: bool, depth: int
) -> None:
    """Members in any order, names too long for a tar's header, a member that is neither."""
    folder = tmp_path_factory.mktemp("shards")
    members = _members(write_discs(folder, 3) / "discs-000.tar")
    members = [("a_long_folder_name/" * 7 * depth + name, content) for name, content in members]
    members.append(("README.txt", b"not a photo"))
    random.Random(seed).shuffle(members)
    _pack(folder / "discs-000.tar", members, tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)
    assert list(index_shards([folder])) == read_shards([folder])


def test_the_same_samples(tmp_path: Path) -> None:
    write_discs(tmp_path)
    (tmp_path / "others-000.tar").write_bytes((tmp_path / "discs-000.tar").read_bytes())
    photos = index_shards([tmp_path])
    assert set_sizes(photos) == {"discs": 6, "others": 6} == set_sizes(list(photos))
    options = {"side": 64, "masks_per_photo": 3, "length": 40, "seed": 3}
    streamed, listed = (PromptDataset(p, **options) for p in (photos, read_shards([tmp_path])))  # type: ignore[arg-type]
    for i in range(40):
        a, b = streamed[i], listed[i]
        assert a.name == b.name and np.array_equal(a.masks, b.masks)
        assert np.array_equal(a.image, b.image, equal_nan=True)


def test_the_index_is_kept_until_the_shard_changes(tmp_path: Path) -> None:
    shard, cache = write_discs(tmp_path / "data", 3) / "discs-000.tar", tmp_path / "cache"
    first = list(index_shards([shard], cache))
    (kept,) = cache.iterdir()
    before = kept.stat().st_mtime_ns
    assert list(index_shards([shard], cache)) == first and kept.stat().st_mtime_ns == before
    write_discs(tmp_path / "data", 5)
    assert len(index_shards([shard], cache)) == 5


def test_a_broken_photo_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = write_discs(tmp_path, 4) / "discs-000.tar"
    members = _members(shard)
    broken = [(n, c[: len(c) // 3] if n == "d2.png" else c) for n, c in members]
    _pack(shard, broken)
    dataset = PromptDataset(index_shards([shard]), side=64, masks_per_photo=2, length=60)
    assert {dataset[i].name for i in range(60)} == {"d0", "d1", "d3"}
    told = capsys.readouterr().err
    assert "d2" in told and "left out" in told


def test_nothing_and_nonsense_are_refused(tmp_path: Path) -> None:
    _pack(tmp_path / "empty-000.tar", [("a.txt", b"x")])
    with pytest.raises(InputError, match="no photo"):
        index_shards([tmp_path])
    (tmp_path / "broken-000.tar").write_bytes(b"\x07" * 4000)
    with pytest.raises(DataError, match="not a readable tar"):
        index_shards([tmp_path])


def test_a_shard_that_went_away_is_named(tmp_path: Path) -> None:
    shard = write_discs(tmp_path, 2) / "discs-000.tar"
    photos = index_shards([shard])
    shard.unlink()
    with pytest.raises(DataError, match=r"discs-000\.tar: cannot be read"):
        photos[0]
    with pytest.raises(IndexError):
        photos[2]
