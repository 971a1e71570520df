"""Proves: a mask's vector is the mean of its crop's embedding over the mask, in both mirror images, and like masks are
found alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import InputError
from anymask.core.geometry import Frame
from anymask.core.types import Embedding
from anymask.evaluate.probe import ProbeProtocol, mask_embeddings, probe_picture


class Colours:
    """Embeds a photo as its mean colour in each of 8×8 cells, and its column number: not the same mirrored."""

    side, mask_threshold = 64, 0.0

    def encode(self, images: list[np.ndarray]) -> list[Embedding]:
        found = []
        for image in images:
            frame = Frame.of(image.shape[:2], self.side)
            canvas = np.zeros((self.side, self.side, 3), np.float32)
            scaled = np.asarray(Image.fromarray(image).resize(frame.input_hw[::-1], Image.Resampling.BOX), np.float32)
            canvas[: frame.input_hw[0], : frame.input_hw[1]] = scaled / 255
            cells = canvas.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
            found.append(Embedding(np.concatenate([cells, np.full((1, 8, 8), np.arange(8) / 8)])[None], frame))
        return found

    def decode(self, embedding: Any, prompts: Any, multimask: bool) -> Any:
        raise AssertionError("vectors of masks need the embedding alone")


def test_vectors_are_means_over_the_mask_and_both_mirror_images() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[8:24, 8:24] = (255, 0, 0)
    image[8:24, 40:56] = (255, 0, 0)
    image[40:56, 8:24] = (0, 255, 0)
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 8:24, 8:24] = masks[1, 8:24, 40:56] = masks[2, 40:56, 8:24] = True
    vectors = mask_embeddings(Colours(), image, masks, ProbeProtocol(margin=1.0))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    column = np.arange(8).mean() / 8  # a crop that is all mask, and its mirror image, which has the same columns
    np.testing.assert_allclose(vectors[0], np.array([1, 0, 0, column]) / np.hypot(1, column), atol=1e-5)
    likeness = vectors @ vectors[0]
    assert likeness[1] == pytest.approx(1, abs=1e-5) and likeness[2] < 0.5
    picture = probe_picture(image, masks, likeness, 0, 0.9)
    assert picture.shape == image.shape and not np.array_equal(picture, probe_picture(image, masks, likeness, 0, 0.1))
    with pytest.raises(InputError, match="empty"):
        mask_embeddings(Colours(), image, masks[:1] & False)


def test_command(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "p.png")
    where = ["--points-per-side", "4", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["evaluate", "probe", str(tmp_path / "p.png"), "--point", "90,60", *where])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "likeness.json").read_text())
    assert found["masks"][found["query"]]["likeness"] == pytest.approx(1, abs=1e-3)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"low.png", "high.png", "likeness.json"}
    missed = CliRunner().invoke(app, ["evaluate", "probe", str(tmp_path / "p.png"), "--point", "900,60", *where])
    assert missed.exit_code != 0 and "outside the photo" in str(missed.exception or missed.output)
