"""Proves: the app's types of the API are those of the server's own description; `make web-types` makes them anew."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from anymask.server.openapi import document

WEB = Path(__file__).parents[1] / "web"
TOOL = WEB / "node_modules" / ".bin" / "openapi-typescript"


@pytest.mark.skipif(
    shutil.which("node") is None or not TOOL.is_file(), reason="needs Node and the app's packages: `make web`"
)
def test_the_apps_types_are_the_servers(tmp_path: Path) -> None:
    described, made = tmp_path / "openapi.json", tmp_path / "wire.d.ts"
    described.write_text(json.dumps(document()))
    options = ["--array-length", "--root-types", "--root-types-no-schema-prefix"]
    command = [str(TOOL), str(described), "-o", str(made), *options]
    subprocess.run(command, cwd=WEB, check=True, capture_output=True, timeout=120)
    assert made.read_text() == (WEB / "src" / "app" / "wire.d.ts").read_text(), "run `make web-types`"


def test_the_description_holds_all_that_goes_over_the_wire() -> None:
    names = set(document()["components"]["schemas"])
    assert {"Photo", "Predict", "Answers", "Everything", "Export", "Task", "SaveMask", "NewReview", "History"} <= names
