"""Proves: labelled photos teach words, alone and through the command, and words that ship are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from anymask.core import rle
from anymask.core.errors import InputError
from anymask.data.readers import Photo
from anymask.text.choice import TextChoice
from anymask.text.embedders import OfflineEmbedder
from anymask.text.learn import learn, lessons, word_of
from anymask.text.words import SHIPPED, LearnedWords

STRIPES, DOTS = "frobnitz", "quuxel"  # words that no name of a class is like


def photo(seed: int, labels: tuple[str | None, str | None]) -> Photo:
    """Stripes on the left, dots on the right, in colours of their own."""
    rng = np.random.default_rng(seed)
    image = np.full((80, 160, 3), rng.integers(90, 160, 3), np.uint8)
    image[10:70:8, 10:70] = image[12:72:8, 10:70] = rng.integers(0, 60, 3)
    for x in range(95, 150, 12):
        for y in range(16, 70, 12):
            cv2.circle(image, (x, y), 4, tuple(int(v) for v in rng.integers(190, 255, 3)), -1)
    masks = np.zeros((2, 80, 160), bool)
    masks[0, 8:72, 8:72] = masks[1, 8:72, 88:152] = True
    encoded = cv2.imencode(".png", image)[1].tobytes()
    return Photo(f"{seed}", "test", encoded, (80, 160), [rle.encode_one(mask) for mask in masks], labels=list(labels))


def test_a_word_is_learned_from_labels() -> None:
    embedder = OfflineEmbedder(words=None)
    words, found = lessons([photo(i, (STRIPES, DOTS)) for i in range(6)], embedder)
    assert words == [STRIPES, DOTS]
    vectors = embedder.vectors(words)
    learned = learn(vectors, found, epochs=30)
    seen = embedder.seen(cv2.imdecode(np.frombuffer(photo(99, (None, None)).encoded, np.uint8), 1)[..., ::-1],
                         rle.decode(photo(99, (None, None)).rles))  # fmt: skip
    scores = learned.scores(vectors, seen)
    assert scores[0, 0] > scores[0, 1] + 1 and scores[1, 1] > scores[1, 0] + 1
    again = learn(vectors, found, epochs=30)
    np.testing.assert_array_equal(again.weight, learned.weight)


def test_unlabelled_masks_are_what_a_word_is_not() -> None:
    embedder = OfflineEmbedder(words=None)
    words, found = lessons([photo(i, (None, DOTS)) for i in range(6)], embedder)
    assert words == [DOTS] and found[0].labels.tolist() == [-1, 0]
    learned = learn(embedder.vectors(words), found, epochs=30)
    features = found[0].x.numpy() @ learned.weight.T + learned.bias
    stripes, dots = features @ embedder.vectors(words)[0]
    assert dots > stripes + 1


def test_automatic_masks_take_the_word_of_what_they_are() -> None:
    asked = []

    def more_masks(image: np.ndarray) -> np.ndarray:
        asked.append(image.shape)
        masks = np.zeros((2, 80, 160), bool)
        masks[0, 10:70, 10:72] = masks[1, 8:30, 88:152] = True  # the stripes; a piece of the dots
        return masks

    words, found = lessons([photo(i, (STRIPES, DOTS)) for i in range(3)], OfflineEmbedder(words=None), more_masks, 2)
    assert words == [STRIPES, DOTS] and asked == [(80, 160, 3)] * 2
    assert [lesson.labels.tolist() for lesson in found] == [[0, 1, 0, -1], [0, 1], [0, 1, 0, -1]]
    none = np.zeros((0, 80, 160), bool)  # a generator that finds nothing
    _, found_alone = lessons([photo(0, (STRIPES, DOTS))], OfflineEmbedder(words=None), lambda image: none)
    assert found_alone[0].labels.tolist() == [0, 1]
    assert found[0].x.shape == (4, 2560) and found[0].named.shape == (2, 4)


def test_photos_without_labels_teach_nothing() -> None:
    with pytest.raises(InputError, match="no mask has a label"):
        lessons([photo(0, (None, None))], OfflineEmbedder(words=None))


def test_a_phrase_counts_as_near_as_it_is_to_a_learned_one() -> None:
    vocabulary = np.eye(384, dtype=np.float32)[:2]
    learned = LearnedWords(np.ones((384, 2560), np.float32), np.zeros(384, np.float32), vocabulary)
    half = np.zeros((1, 384), np.float32)
    half[0, [0, 5]] = 0.6, 0.8
    seen = np.full((2, 1, 1280), 4.0, np.float32)
    whole = learned.scores(vocabulary[:1], seen)[0, 0]
    assert whole == pytest.approx(2 * 2560)
    assert learned.scores(half, seen)[0, 0] == pytest.approx(0.36 * 1.4 * whole, rel=1e-5)
    assert learned.scores(-vocabulary[:1], seen)[0, 0] == 0  # nearer to no word than at a right angle


@pytest.mark.parametrize(
    ("label", "word"),
    [("wall-other-merged", "wall"), ("door-stuff", "door"), ("wall-stone", "wall stone"), ("person", "person")],
)
def test_labels_as_people_write_them(label: str, word: str) -> None:
    assert word_of(label) == word


def test_the_command_writes_a_file_that_loads(tmp_path: Path) -> None:
    shard = tmp_path / "shard"
    shard.mkdir()
    for i in range(3):
        one = photo(i, (STRIPES, DOTS))
        (shard / f"{i}.png").write_bytes(one.encoded)
        annotations = [
            {"id": k, "segmentation": {"size": list(r["size"]), "counts": _text(r["counts"])}, "category": label}
            for k, (r, label) in enumerate(zip(one.rles, one.labels))
        ]
        image = {"image_id": i, "width": 160, "height": 80, "file_name": f"{i}.png"}
        (shard / f"{i}.json").write_text(json.dumps({"image": image, "annotations": annotations}))
    out = tmp_path / "own.safetensors"
    done = subprocess.run([sys.executable, "-m", "anymask.text.learn", str(shard), "--out", str(out)],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^2 words from \d+ masks on 3 photos", done.stdout)
    assert LearnedWords.load(out).vocabulary.shape == (2, 384)
    image = cv2.imdecode(np.frombuffer(photo(7, (None, None)).encoded, np.uint8), 1)[..., ::-1]
    similarities = OfflineEmbedder(out).similarities(image, rle.decode(photo(7, (None, None)).rles), [STRIPES, DOTS])
    assert similarities.shape == (2, 2) and (similarities >= 0).all() and (similarities <= 1).all()


def test_files_that_are_no_learned_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.safetensors cannot be read"):
        OfflineEmbedder(tmp_path / "gone.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    with pytest.raises(InputError, match="cannot be read as learned words"):
        LearnedWords.load(text)
    other = tmp_path / "other.safetensors"
    LearnedWords(np.zeros((384, 8)), np.zeros(384), np.zeros((2, 384))).save(other)
    with pytest.raises(InputError, match=r"expected weight \(384, 2560\)"):
        LearnedWords.load(other)


def test_own_words_are_a_text_model_and_bad_data_is_told(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    LearnedWords(np.zeros((384, 2560)), np.zeros(384), np.eye(384)[:2]).save(file)
    choice = TextChoice(str(file))
    assert not choice.is_clip and isinstance(choice.embedder, OfflineEmbedder)
    image, masks = np.zeros((20, 30, 3), np.uint8), np.ones((1, 20, 30), bool)
    names = OfflineEmbedder(words=None).similarities(image, masks, ["dog"])
    np.testing.assert_allclose(choice.embedder.similarities(image, masks, ["dog"]), names, rtol=1e-5)
    done = subprocess.run([sys.executable, "-m", "anymask.text.learn", str(tmp_path / "nowhere")],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("anymask: ") and "nowhere" in done.stderr


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def test_words_that_ship() -> None:
    learned = LearnedWords.load(SHIPPED)
    assert learned.weight.shape == (384, 2560) and SHIPPED.stat().st_size < 2.5e6
    vectors = OfflineEmbedder(words=None).vectors(["person", "wheel", "window", "zebra crossing"])
    nearest = (vectors @ learned.vocabulary.T).max(axis=1)
    assert (nearest[:3] > 0.999).all() and nearest[3] < 0.9
