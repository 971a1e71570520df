"""Pictures: what is drawn lies where it should, nothing else changes, and bad input is refused."""

from __future__ import annotations

import numpy as np
import pytest

from anymask.core.errors import InputError, OptionError
from anymask.predict.render import COLOURS, candidates_sheet, colour_of, contact_sheet, overlay

GRAY = np.full((200, 300, 3), 128, np.uint8)
DOWN, RIGHT = np.ogrid[:200, :300]
DISC = (RIGHT - 150) ** 2 + (DOWN - 100) ** 2 < 50**2


def hue(pixel: np.ndarray, colour: tuple[int, int, int]) -> float:
    """1 where the pixel is tinted towards the colour."""
    towards = np.asarray(colour, float) - 128
    moved = pixel.astype(float) - 128
    return float(moved @ towards / (np.linalg.norm(moved) * np.linalg.norm(towards) + 1e-9))


def test_nothing_to_draw_gives_a_copy() -> None:
    out = overlay(GRAY)
    assert np.array_equal(out, GRAY) and out is not GRAY
    assert np.array_equal(overlay(GRAY, np.zeros((1, 200, 300), bool), titles=["empty"]), GRAY)
    assert np.array_equal(overlay(GRAY, np.zeros((0, 200, 300), bool)), GRAY)


def test_a_mask_is_tinted_outlined_and_kept_inside() -> None:
    before = GRAY.copy()
    out = overlay(GRAY, DISC[None])
    assert np.array_equal(GRAY, before), "the photo must not change"
    assert out.shape == GRAY.shape and out.dtype == np.uint8
    assert hue(out[100, 150], COLOURS[0]) > 0.99
    line = out[100, 101]  # the leftmost pixels of the disc
    assert np.abs(line.astype(int) - COLOURS[0]).max() < 60, "a full line at the edge"
    assert out[100, 100].min() > 190, "white outside it"
    away = (RIGHT - 150) ** 2 + (DOWN - 100) ** 2 > 56**2
    assert (out[away] == 128).all()


def test_small_masks_stay_visible_under_large_ones() -> None:
    small = (RIGHT - 150) ** 2 + (DOWN - 100) ** 2 < 12**2
    for order in ([small, DISC], [DISC, small]):
        out = overlay(GRAY, np.stack(order), colours=[COLOURS[o is DISC] for o in order])
        assert hue(out[100, 150], COLOURS[0]) > 0.7


def test_no_outline_where_the_photo_cuts_the_object() -> None:
    out = overlay(GRAY, np.ones((1, 200, 300), bool))
    assert np.ptp(out.reshape(-1, 3), axis=0).max() == 0


def test_clicks_are_green_and_red() -> None:
    out = overlay(GRAY, points=[[60, 50], [240, 150]], labels=[1, 0])
    plus, minus = out[54, 56], out[154, 236]
    assert plus[1] > plus[0] + 50
    assert minus[0] > minus[1] + 50
    assert out[50, 60].min() > 200 and out[150, 240].min() > 200, "white signs"
    assert out[47, 60].min() > 200, "the plus has a vertical stroke"
    assert out[147, 240].max() - out[147, 240].min() > 50, "the minus has none"
    assert np.array_equal(overlay(GRAY, points=[60, 50]), overlay(GRAY, points=[[60, 50]], labels=[1]))


def test_boxes_are_lines() -> None:
    out = overlay(GRAY, boxes=[50, 40, 200, 160])
    assert hue(out[100, 50], (255, 205, 30)) > 0.9
    assert hue(out[40, 120], (255, 205, 30)) > 0.9
    assert (out[60:140, 70:180] == 128).all()
    assert np.array_equal(out, overlay(GRAY, boxes=[[200, 160, 50, 40]])), "corners in any order"


def test_titles_are_drawn_apart_from_each_other() -> None:
    other = np.roll(DISC, 3, axis=1)
    plain = overlay(GRAY, np.stack([DISC, other]))
    one = overlay(GRAY, np.stack([DISC, other]), titles=["0.97", ""])
    two = overlay(GRAY, np.stack([DISC, other]), titles=["0.97", "0.88"])
    first, second = (one != plain).any(-1), (two != one).any(-1)
    assert first.any() and second.any()
    assert not (first & second).any()


@pytest.mark.parametrize("hw", [(1, 1), (1, 50), (50, 1), (7, 5)])
def test_tiny_pictures(hw: tuple[int, int]) -> None:
    image = np.zeros((*hw, 3), np.uint8)
    full = np.ones((1, *hw), bool)
    out = overlay(image, full, points=[[0, 0]], boxes=[[0, 0, 4, 4]], titles=["a long title for this"])
    assert out.shape == image.shape


def test_prompts_outside_the_photo_draw_nothing() -> None:
    out = overlay(GRAY, points=[[-500, -500], [9000, 50]], labels=[1, 0], boxes=[[-900, -900, -800, -800]])
    assert np.array_equal(out, GRAY)


def test_colours_are_distinct_for_ever() -> None:
    colours = [colour_of(i) for i in range(60)]
    assert len(set(colours)) == 60
    assert all(0 <= v <= 255 for c in colours for v in c)


def test_contact_sheet() -> None:
    pictures = [GRAY, np.zeros((300, 100, 3), np.uint8), np.full((10, 10, 3), 200, np.uint8)]
    sheet = contact_sheet(pictures, ["one", "two", "three" * 60], columns=2, tile_px=120)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert sheet.shape[1] == 3 * 8 + 2 * 120
    assert sheet[0, 0].min() > 240
    assert (sheet == 0).all(-1).any(), "the black picture is there"
    assert contact_sheet([GRAY], columns=9).shape[1] < 600


def test_candidates_sheet_shows_the_photo_and_every_candidate() -> None:
    masks = np.stack([DISC, ~DISC, DISC])
    sheet = candidates_sheet(GRAY, masks, [0.5, 0.9, 0.7], points=[[150, 100]], columns=4, tile_px=150)
    assert sheet.shape[1] == 5 * 8 + 4 * 150
    alone = candidates_sheet(GRAY, masks[:1], np.array([0.5]), boxes=[[10, 10, 50, 50]], tile_px=150)
    assert alone.shape[1] == 3 * 8 + 2 * 150


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"masks": np.zeros((200, 300), bool)}, "expected masks"),
        ({"masks": np.zeros((1, 200, 300))}, "expected masks"),
        ({"masks": np.zeros((1, 300, 200), bool)}, "expected masks"),
        ({"points": [[1, 2, 3]]}, "expected points"),
        ({"points": [[1, np.nan]]}, "expected points"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "expected 1 labels, got 2"),
        ({"boxes": [[1, 2]]}, "expected boxes"),
        ({"masks": DISC[None], "titles": []}, "expected 1 titles, got 0"),
        ({"masks": DISC[None], "colours": [(1, 2, 3), (1, 2, 3)]}, "expected 1 colours, got 2"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        overlay(GRAY, **options)


def test_sheets_refuse_too() -> None:
    with pytest.raises(InputError, match="expected an image"):
        overlay(GRAY[..., 0])
    with pytest.raises(InputError, match="at least one"):
        contact_sheet([])
    with pytest.raises(InputError, match="titles"):
        contact_sheet([GRAY], ["a", "b"])
    with pytest.raises(OptionError, match="columns"):
        contact_sheet([GRAY], columns=0)
    with pytest.raises(InputError, match="predicted IoU"):
        candidates_sheet(GRAY, DISC[None], [0.5, 0.6])
