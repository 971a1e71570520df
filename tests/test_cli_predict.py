"""Proves: `anymask predict` does what its help says: files, JSON, exit codes, messages without tracebacks.

Runs the real command in a process of its own, with the model inside the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anymask.core.images import read_image
from anymask.core.rle import decode_one


def anymask(*args: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anymask", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "ANYMASK_OFFLINE": "1", **(env or {})},
    )


@pytest.fixture
def picture(tmp_path: Path, photo: np.ndarray) -> Path:
    path = tmp_path / "disc.png"
    Image.fromarray(photo).save(path)
    return path


def test_files_and_report(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = anymask("predict", picture, "--point", "90,60", "--point", "5,5,-", "--box", "50,20,130,100", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "predicted IoU" in done.stdout and str(out / "disc.overlay.png") in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["disc.json", "disc.mask0.png", "disc.overlay.png"]
    data = json.loads((out / "disc.json").read_text())
    (candidate,) = data["objects"][0]["candidates"]
    mask = decode_one(candidate["segmentation"])
    assert mask.shape == (120, 160) and mask.sum() == candidate["area"]
    np.testing.assert_array_equal(read_image(out / "disc.mask0.png")[..., 0] > 0, mask)
    assert read_image(out / "disc.overlay.png").shape == (120, 160, 3)


def test_json_for_several_photos_and_boxes(picture: Path, tmp_path: Path) -> None:
    second = tmp_path / "other.jpg"
    Image.fromarray(read_image(picture)).save(second)
    done = anymask(
        "predict", picture, second, "--box", "50,20,130,100", "--box", "0,0,40,40", "--json", "--precision", "fp32"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"]["file_name"] for line in lines] == [str(picture), str(second)]
    assert all(len(line["objects"]) == 2 for line in lines)
    ious = [c["predicted_iou"] for c in lines[0]["objects"][0]["candidates"]]
    assert len(ious) == 3 and ious == sorted(ious, reverse=True)


def test_mask_prompt_and_single_mask(picture: Path, tmp_path: Path, photo: np.ndarray) -> None:
    rough = tmp_path / "rough.png"
    Image.fromarray((photo[..., 0] > 150).astype(np.uint8) * 255).save(rough)
    done = anymask("predict", picture, "--mask", rough, "--no-multimask", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["objects"][0]["candidates"]) == 1


def test_one_bad_photo_does_not_stop_the_rest(picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    done = anymask("predict", broken, picture, "--point", "90,60", "--json")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "broken.jpg" in done.stderr and "1 of 2 photos failed" in done.stderr


def test_messages(picture: Path, tmp_path: Path) -> None:
    cases = [
        (["predict", picture], 2, "--point x,y"),
        (["predict", picture, "--point", "12"], 2, "got '12'"),
        (["predict", picture, "--point", "1,2,x"], 2, "--point takes"),
        (["predict", picture, "--box", "1,2,3"], 2, "--box takes"),
        (["predict", picture, "--point", "500,5"], 2, "outside the photo"),
        (["predict", tmp_path / "none.jpg", "--point", "1,1"], 2, "none.jpg"),
        (["predict", picture, "--point", "1,1", "--model", "vit_x"], 2, "vit_b"),
        (["predict", picture, "--point", "1,1", "--model", "vit_b"], 1, "anymask models pull vit_b"),
        (["predict", picture, "--point", "1,1", "--device", "tpu"], 2, "cuda"),
        (["predict", picture, "--point", "1,1", "--precision", "fp8"], 2, "bf16"),
        (["predict", "sample:dog", "--point", "1,1"], 2, "cat"),
        (["predict", picture, "--point", "1,1", "--nonsense"], 2, "No such option"),
    ]
    env = {"ANYMASK_HOME": str(tmp_path / "home")}
    for args, code, message in cases:
        done = anymask(*args, env=env)
        assert done.returncode == code, (args, done.stderr)
        assert message in done.stderr, (args, done.stderr)
        assert "Traceback" not in done.stderr


def test_unwritable_output(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = anymask("predict", picture, "--point", "90,60", "-o", tmp_path / "file" / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "file" in done.stderr


@pytest.mark.parametrize("command", [["predict"], ["models", "pull"], ["train"]])
def test_help_has_an_example(command: list[str]) -> None:
    done = anymask(*command, "--help")
    assert done.returncode == 0 and "xample" in done.stdout and f"anymask {' '.join(command)}" in done.stdout


def test_version_and_completion() -> None:
    assert anymask("--version").stdout.startswith("anymask 0.")
    command = Path(sys.executable).parent / "anymask"
    env = {**os.environ, "_ANYMASK_COMPLETE": "complete_bash", "COMP_WORDS": "anymask pre", "COMP_CWORD": "1"}
    done = subprocess.run([command], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["predict"]
