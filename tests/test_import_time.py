"""Importing is instant: the heavy libraries load where they are used, not when a name is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "torchvision", "numpy", "cv2", "PIL", "pycocotools", "transformers", "onnxruntime", "typer"]


def loaded_by(statement: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import anymask", "from anymask import __version__", "import anymask.core"]
)
def test_the_package_loads_nothing_heavy(statement: str) -> None:
    assert loaded_by(statement) == set()


def test_errors_and_geometry_need_the_standard_library_only() -> None:
    assert loaded_by("import anymask.core.errors, anymask.core.geometry, anymask.core.types") == set()


def test_images_masks_and_pictures_need_no_torch() -> None:
    modules = "anymask.core.images, anymask.core.rle, anymask.core.masks, anymask.predict.render"
    assert "torch" not in loaded_by(f"import {modules}")
