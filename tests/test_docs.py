"""Proves: the Python snippets of the documents run, in order, and every `anymask …` command they show is understood.

Commands that need nothing but a photo are run; of the others (`pull`, `train`) the options are checked against --help.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs" / "guide").glob("*.md")])
RUN = ("predict", "models list", "models info lite")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.S)


def commands(path: Path) -> list[list[str]]:
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("anymask ")]


@pytest.fixture
def workplace(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents talk of."""
    Image.fromarray(np.kron(photo, np.ones((4, 4, 1), np.uint8))).save(tmp_path / "photo.jpg")  # 640×480
    Image.fromarray((photo[..., 0] > 150).astype(np.uint8) * 255).resize((640, 480)).save(tmp_path / "rough.png")
    for kind in ("images", "masks"):
        (tmp_path / "my_photos" / kind).mkdir(parents=True)
    Image.fromarray(photo).save(tmp_path / "my_photos" / "images" / "disc.jpg")
    Image.fromarray((photo[..., 0] > 150).astype(np.uint8) * 255).save(tmp_path / "my_photos" / "masks" / "disc.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_python_snippets_run(document: Path, workplace: Path) -> None:
    scope: dict = {}
    for block in blocks(document, "python"):
        exec(compile(block, str(document), "exec"), scope)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_are_understood(document: Path, workplace: Path) -> None:
    env = {**os.environ, "ANYMASK_OFFLINE": "1", "ANYMASK_HOME": str(workplace / "home")}
    for command in commands(document):
        words = command[1:]
        if " ".join(words).startswith(RUN) and "vit_" not in " ".join(words):
            done = subprocess.run([sys.executable, "-m", "anymask", *words], capture_output=True, text=True, env=env)
            assert done.returncode == 0, (command, done.stderr)
            continue
        verb = [w for w in words[:2] if re.fullmatch(r"[a-z]+", w)]
        verb = verb[: 2 if words[0] in ("models", "recipes", "data", "evaluate", "engine", "export", "ratings") else 1]
        done = subprocess.run(
            [sys.executable, "-m", "anymask", *verb, "--help"],
            capture_output=True,
            text=True,
            env={**env, "COLUMNS": "200"},
        )
        assert done.returncode == 0, (command, done.stderr)
        for option in (w for w in words if w.startswith("--")):
            assert option in done.stdout, f"{document.name} shows {option} of {' '.join(verb)}, which is not there"


def test_readme_shows_the_two_commands_and_makefile_has_them() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme and f"\n{target}:" in makefile


def test_documents_link_to_files_that_exist() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
