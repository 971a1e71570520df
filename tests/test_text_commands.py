"""Proves: phrases work where people use them: predict, everything, and the measurement of how often they are right."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from skimage import data
from test_text_clip import write_clip
from typer.testing import CliRunner, Result

from anymask.cli.main import app
from anymask.core.errors import InputError
from anymask.core.images import read_image, write_image
from anymask.core.rle import decode_one, encode_one
from anymask.evaluate.text_to_mask import TextProtocol, TextToMask
from anymask.model.sam import Sam
from anymask.predict.predictor import SamPredictor
from anymask.predict.request import Request
from anymask.text.answer import text_answerer


def anymask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cat beside a cup, labelled, with a larger mask that nobody asks for; a photo without labels besides."""
    folder = tmp_path_factory.mktemp("pair")
    image = np.concatenate([data.chelsea()[:, :400], data.coffee()[:300, 100:500]], axis=1)
    cat, cup, both = np.zeros((3, *image.shape[:2]), bool)
    cat[10:290, 10:390] = cup[10:290, 410:790] = both[:, :] = True
    write_image(folder / "pair.jpg", image)
    words = ((cat, "cat"), (cup, "coffee_mug"), (both, None))
    annotations = [
        {"id": i, "image_id": 1, "segmentation": encode_one(mask), **({"category_id": i} if word else {})}
        for i, (mask, word) in enumerate(words)
    ]
    content = {
        "images": [{"id": 1, "file_name": "pair.jpg", "height": 300, "width": 800}],
        "annotations": annotations,
        "categories": [{"id": i, "name": word} for i, (_, word) in enumerate(words) if word],
    }
    (folder / "pair.json").write_text(json.dumps(content))
    return folder


def test_predict_takes_a_phrase_with_and_without_a_click(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anymask.text.answer.POINTS_PER_SIDE", 5)  # quicker
    done = anymask("predict", pair / "pair.jpg", "--text", "a cat", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "similarity 0." in done.output and (tmp_path / "pair.overlay.png").is_file()
    found = json.loads((tmp_path / "pair.json").read_text())
    candidates = found["objects"][0]["candidates"]
    assert found["prompt"]["text"] == "a cat" and 1 <= len(candidates) <= 3
    similarity = [c["similarity"] for c in candidates]
    assert similarity == sorted(similarity, reverse=True)
    assert (
        decode_one(candidates[0]["segmentation"])[:, :400].mean()
        > decode_one(candidates[0]["segmentation"])[:, 400:].mean()
    )
    click = anymask("predict", pair / "pair.jpg", "--text", "a cat", "--point", "200,150", "--json")
    assert click.exit_code == 0, click.output
    chosen = json.loads(click.stdout)["objects"][0]["candidates"]
    assert len(chosen) == 3 and all(-1 <= c["similarity"] <= 1 for c in chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", " "), "--text is empty"),
        (("--text", "dog", "--box", "1,1,9,9", "--box", "1,1,8,8"), "one box at most"),
        (("--text", "dog", "--point", "9,9", "--text-model", "nowhere"), "nowhere is none of them"),
    ],
)
def test_predict_says_what_cannot_be(pair: Path, options: tuple[str, ...], message: str) -> None:
    done = anymask("predict", pair / "pair.jpg", *options)
    assert done.exit_code != 0 and message in str(done.exception or done.output)


def test_a_clip_ranks_for_a_model_without_text_prompts(pair: Path, tmp_path: Path) -> None:
    folder = write_clip(tmp_path)
    done = anymask(
        "predict", pair / "pair.jpg", "--text", "dog", "--text-model", folder, "--point", "200,150", "--json"
    )
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["objects"][0]["candidates"]) == 3


def test_everything_keeps_and_labels_the_best(pair: Path, tmp_path: Path) -> None:
    grid = ("--points-per-side", 4, "--format", "coco", "--no-overlays", "-o", tmp_path)
    phrases = ("--text", "a cat", "--text", "cup of coffee", "--text-keep", 1)
    done = anymask("everything", pair / "pair.jpg", *grid, *phrases)
    assert done.exit_code == 0, done.output
    found = json.loads(next(tmp_path.glob("*.json")).read_text())
    names = {c["id"]: c["name"] for c in found["categories"]}
    labels = [names[a["category_id"]] for a in found["annotations"]]
    assert labels and len(set(labels)) == len(labels) and set(labels) <= {"a cat", "cup of coffee"}
    refused = anymask("everything", pair / "pair.jpg", *grid, *phrases, "--tile", 256)
    assert refused.exit_code != 0 and "--tile" in str(refused.exception or refused.output)


def test_hits_are_counted_beside_the_baselines(pair: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    done = anymask("evaluate", "text", "--data", pair / "pair.json", "--set", "candidates=truth", "--json", out)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["all"]["words"] == 2 and found["all"]["first"] == 100 and found["all"]["largest"] == 0
    assert found["all"]["ratio"] is None and found["data"]["text"] == "offline" and "Text to mask" in done.output
    task = TextToMask([pair / "pair.json"], protocol=TextProtocol(candidates="truth"))
    (case,) = task.cases()
    row = task.score(case)
    assert set(row["words"]) == {"cat", "coffee mug"}
    assert task.picture(case, row).shape == (300, 800, 3)
    one_name = {**row, "source": "animals", "words": {"cat": {**row["words"]["cat"], "largest": 1.0}}}
    summary = task.summarise([{**row, "source": "pairs"}, one_name])
    assert (summary["all"]["words"], summary["all"]["largest"]) == (3, pytest.approx(100 / 3))
    assert (summary["several"]["words"], summary["several"]["largest"], summary["several"]["photos"]) == (2, 0, 1)
    assert "several" not in task.summarise([one_name])


def test_a_model_with_text_prompts_takes_the_phrase_itself(pair: Path, tmp_path: Path, lite_random: Sam) -> None:
    sam = deepcopy(lite_random)
    sam.prompt_encoder.add_text(24)
    predictor = SamPredictor(sam)
    choose = text_answerer(str(write_clip(tmp_path)))
    image = read_image(pair / "pair.jpg")
    alone = choose(predictor, image, Request(text="a cat"))
    assert alone.masks.shape == (1, 3, 300, 800) and alone.similarity is not None
    helped = choose(predictor, image, Request([(200.0, 150.0)], [1], text="a cat"))
    assert helped.masks.shape == (1, 1, 300, 800)
    with pytest.raises(InputError, match="clicks beside the phrase"):
        choose(predictor, image, Request(boxes_xyxy=[(1, 1, 9, 9)], text="a cat"))
