"""Proves: drawings come apart into nested parts, scenes have exact masks, and are the same for the same seed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.data import app
from anymask.core.errors import InputError, MissingExtraError, OptionError
from anymask.core.rle import decode, encode
from anymask.data.readers import Photo, read_shards
from anymask.data.shards import write_shard
from anymask.data.synthetic import LEVELS, Cutouts, Scene, SceneOptions, SyntheticScenes, VectorArt, load_art
from anymask.data.synthetic.backgrounds import procedural
from anymask.data.synthetic.cutouts import partition
from anymask.data.synthetic.pieces import Piece, nested_sets, parents_of

EYE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">
<rect x="4" y="4" width="56" height="56" fill="#fc8"/>
<g><circle cx="32" cy="32" r="16" fill="white"/><circle cx="32" cy="32" r="8" style="fill:#123"/></g>
<rect x="4" y="4" width="56" height="28" fill="white" opacity="0.2"/></svg>"""


def piece_of(svg: str, side_px: int = 64) -> Piece:
    piece = VectorArt([("x", svg)]).piece(0, side_px)
    assert piece is not None
    return piece


def masks_of(piece: Piece) -> list[np.ndarray]:
    return [np.isin(piece.leaves, list(part)) for part in piece.parts]


def test_a_drawing_comes_apart_as_it_is_painted() -> None:
    piece = piece_of(EYE)
    assert piece.leaves.shape == (56, 56)
    face, eye, pupil = masks_of(piece)  # the shine is no part
    assert parents_of(piece.parts) == [None, 0, 1]
    assert face.all()
    y, x = np.mgrid[:56, :56] - 27.5
    assert (eye != (np.hypot(x, y) < 16)).sum() < 30  # of 804, and 100 on its border
    assert (pupil != (np.hypot(x, y) < 8)).sum() < 20


def test_use_groups_gradients_and_clips_are_understood() -> None:
    svg = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 64 64">
    <defs><circle id="c" cx="10" cy="10" r="8"/><linearGradient id="g"><stop stop-color="red"/></linearGradient></defs>
    <clipPath id="half"><path d="M0 40h64v12H0z"/></clipPath>
    <g fill="blue"><use xlink:href="#c" x="4" y="4"/><use href="#c" x="36" y="4"/></g>
    <g clip-path="url(#half)"><circle cx="32" cy="48" r="14" fill="url(#g)"/></g></svg>"""
    piece = piece_of(svg)
    masks = masks_of(piece)
    assert len(masks) == 5  # all, the pair, each of it, the clipped one
    assert parents_of(piece.parts) == [None, 0, 0, 1, 1] or parents_of(piece.parts) == [None, 0, 1, 1, 0]
    heights = sorted(int(m.any(axis=1).sum()) for m in masks)
    assert heights[0] == 12  # clipped


def test_what_cannot_be_used_is_left_out() -> None:
    for body in ("", "<text>a</text>", "<path d='M0 0h9v9' opacity='0.1'/>", "<style>a{}</style><path d='M0 0h9v9'/>"):
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'>{body}</svg>"
        assert VectorArt([("x", svg)]).piece(0) is None
    for svg in ("<svg", "<svg xmlns='http://www.w3.org/2000/svg'><path d='M0 0h9v9'/></svg>"):
        assert VectorArt([("x", svg)]).piece(0) is None


def test_sets_are_nested_or_disjoint() -> None:
    areas = {1: 50, 2: 30, 3: 20, 4: 1}
    sets = [frozenset(s) for s in ({1, 2, 3, 4}, {1, 2}, {2, 3}, {3}, {3, 4}, {4}, {9})]
    assert nested_sets(sets, areas) == tuple(map(frozenset, ({1, 2, 3, 4}, {1, 2}, {3, 4}, {4})))


def test_art_comes_from_files_folders_and_iconify(tmp_path: Path) -> None:
    (tmp_path / "my-eye.svg").write_text(EYE)
    body = EYE.partition(">")[2].removesuffix("</svg>")
    package = tmp_path / "node_modules" / "noto"
    package.mkdir(parents=True)
    icons = {"width": 64, "height": 64, "icons": {"an-eye": {"body": body}, "b": {"body": body, "width": 32}}}
    (package / "icons.json").write_text(json.dumps(icons))
    assert len(load_art([tmp_path / "my-eye.svg"])) == 1
    art = load_art([package])
    piece = art.piece(0, 64)
    assert len(art) == 2 and piece is not None and piece.name == "an eye" and len(piece.parts) == 3
    for wrong, said in ((tmp_path / "no", "expected a folder"), (tmp_path / "empty", "neither")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=said):
            load_art([wrong])
    (package / "icons.json").write_text('{"icons": 3}')
    with pytest.raises(InputError, match="not an iconify collection"):
        load_art([package])


def test_our_own_drawings_are_all_usable() -> None:
    art = load_art()
    pieces = [art.piece(i, 96) for i in range(len(art))]
    assert len(art) == 20 and all(p is not None and len(p.parts) > 3 for p in pieces)


def test_without_resvg_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anymask\[synthetic\]'"):
        load_art()


SMALL = SceneOptions(hw=(96, 128), num_pieces=(3, 5), size=(0.3, 0.9))


def assert_exact(scene: Scene, options: SceneOptions) -> None:
    num = len(scene.masks)
    assert num and scene.image.shape == (*options.hw, 3) and scene.image.dtype == np.uint8
    assert len(scene.parents) == len(scene.levels) == len(scene.names) == num
    assert (scene.masks.reshape(num, -1).sum(axis=1) >= options.min_area_px).all()
    for i, parent in enumerate(scene.parents):
        depth = 0
        if parent is not None:
            assert parent < i and not (scene.masks[i] & ~scene.masks[parent]).any()
            assert scene.masks[i].sum() < scene.masks[parent].sum()
            depth = LEVELS.index(scene.levels[parent]) + 1
        assert scene.levels[i] == LEVELS[min(depth, 2)]
    for i in range(num):
        for j in range(i):
            both = scene.masks[i] & scene.masks[j]
            assert not both.any() or (both == scene.masks[i]).all() or (both == scene.masks[j]).all()


def test_scenes_are_nested_exactly_and_seeded() -> None:
    scenes = SyntheticScenes(load_art(), options=SMALL, seed=3)
    made = [scenes.scene(i) for i in range(4)]
    for scene in made:
        assert_exact(scene, SMALL)
    assert set().union(*(s.levels for s in made)) == set(LEVELS)
    again = SyntheticScenes(load_art(), options=SMALL, seed=3).scene(2)  # another object, out of order
    assert np.array_equal(again.image, made[2].image) and np.array_equal(again.masks, made[2].masks)
    other = SyntheticScenes(load_art(), options=SMALL, seed=4).scene(2)
    assert not np.array_equal(other.image, made[2].image)


def test_a_crowd_is_many_of_few_things() -> None:
    options = SceneOptions(hw=(192, 256), crowds=1)
    scenes = [SyntheticScenes(load_art(), options=options, seed=1).scene(i) for i in range(3)]
    for scene in scenes:
        assert_exact(scene, options)
        wholes = [name for name, level in zip(scene.names, scene.levels) if level == "whole"]
        assert len(set(wholes)) <= 3 < len(wholes)
        sizes = [mask.any(0).sum() for mask, level in zip(scene.masks, scene.levels) if level == "whole"]
        assert max(sizes) < 0.5 * 256
    plain = SceneOptions(hw=(192, 256), crowds=0)
    assert not np.array_equal(SyntheticScenes(load_art(), options=plain, seed=1).scene(0).image, scenes[0].image)


def test_masks_lie_where_the_pixels_are() -> None:
    red = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">
    <circle cx="4.5" cy="4.5" r="4" fill="red"/></svg>"""
    options = SceneOptions(hw=(96, 128), num_pieces=(1, 1), size=(0.5, 0.5), effects=0)
    for index in range(3):
        scene = SyntheticScenes(VectorArt([("red", red)]), options=options, seed=2).scene(index)
        is_red = (scene.image == (255, 0, 0)).all(axis=2)
        inner = cv2.erode(scene.masks[0].astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
        assert inner.any() and is_red[inner].all() and not (is_red & ~scene.masks[0]).any()


def photo_with_a_thing(name: str = "p") -> Photo:
    """A green disc with a blue square in it, on gray; and a segment that touches the border."""
    y, x = np.mgrid[:80, :100]
    disc = np.hypot(y - 40, x - 50) < 28
    square = (abs(y - 36) < 9) & (abs(x - 46) < 9)
    image = np.full((80, 100, 3), 120, np.uint8)
    image[disc], image[square] = (20, 200, 20), (20, 20, 220)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    rles = encode(np.stack([disc, square, y < 30]))
    return Photo(name, "s", buffer.getvalue(), (80, 100), rles, ["ball", None, "wall"])


def test_real_segments_are_cut_out_with_their_parts() -> None:
    cutouts = Cutouts([photo_with_a_thing()])
    assert len(cutouts) == 1  # the square is too small alone, the wall touches the border
    piece = cutouts.piece(0)
    assert piece is not None and piece.name == "ball"
    whole, square = masks_of(piece)
    assert abs(int(square.sum()) - 17 * 17) < 5
    assert (piece.rgba[square][:, :3] == (20, 20, 220)).all()
    options = SceneOptions(hw=(96, 128), num_pieces=(1, 3))
    backgrounds = [photo_with_a_thing("b")]
    scene = SyntheticScenes(None, cutouts, backgrounds, options).scene(0)
    assert_exact(scene, options)
    assert set(scene.names) == {"ball"}
    with pytest.raises(InputError, match="none of 1 photos"):
        Cutouts([Photo("a", "s", b"", (80, 100), [])])


def test_segments_that_overlap_are_sorted_out() -> None:
    whole = np.ones((40, 40), bool)
    left, middle, dot = (np.zeros((40, 40), bool) for _ in range(3))
    left[:, :20], middle[:, 10:29], dot[5:15, 2:12] = True, True, True  # middle is half in left: left out
    leaves, parts = partition(whole, [dot, middle, left])
    assert parents_of(parts) == [None, 0, 1]
    assert [int(np.isin(leaves, list(p)).sum()) for p in parts] == [1600, 800, 100]


def test_backgrounds_are_of_every_kind() -> None:
    made = [procedural((40, 50), np.random.default_rng(i)) for i in range(12)]
    assert all(b.shape == (40, 50, 3) and b.dtype == np.uint8 for b in made)
    assert len({b.tobytes() for b in made}) == 12


def test_a_shard_of_scenes_is_read_back(tmp_path: Path) -> None:
    scenes = SyntheticScenes(load_art(), options=SMALL)
    photos = list(scenes.photos(2, start=5))
    write_shard(photos, tmp_path / "synthetic-000.tar")
    read = read_shards([tmp_path / "synthetic-000.tar"])
    assert [(p.name, p.encoded, p.labels) for p in read] == [(p.name, p.encoded, p.labels) for p in photos]
    assert np.array_equal(decode(read[0].rles), scenes.scene(5).masks)
    first = (tmp_path / "synthetic-000.tar").read_bytes()
    write_shard(scenes.photos(2, start=5), tmp_path / "synthetic-000.tar")
    assert (tmp_path / "synthetic-000.tar").read_bytes() == first
    with pytest.raises(InputError, match="two photos"):
        write_shard([photos[0], photos[0]], tmp_path / "twice.tar")
    assert not (tmp_path / "twice.tar").exists()


def test_the_command(tmp_path: Path) -> None:
    write_shard([photo_with_a_thing()], tmp_path / "real-000.tar")
    real = str(tmp_path / "real-000.tar")
    arguments = ["synthesize", "-n", "2", "--size", "64x96", "--cutouts", real, "--backgrounds", real]
    out = tmp_path / "new" / "synthetic-000.tar"
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "2 scenes" in result.output and len(read_shards([out])) == 2
    result = CliRunner().invoke(app, ["synthesize", "--size", "large", "--out", str(out)])
    assert isinstance(result.exception, OptionError)


@pytest.mark.parametrize(
    "options",
    [{"hw": (8, 8)}, {"num_pieces": (3, 1)}, {"size": (0, 1)}, {"effects": 2}, {"cutouts": -1}, {"crowds": 2}],
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        SceneOptions(**options)
    with pytest.raises(OptionError, match="something to show"):
        SyntheticScenes()
