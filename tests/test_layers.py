"""Imports point downwards: a file imports from its own layer or a lower one, so that parts stay apart.

Layers: core 0, model and formats 1, loading 2, using the model 3, loops over it 4, runners and routes 5, the
app 6, the command line 7. A file's layer is its folder's unless EXCEPTIONS names it. Every import counts,
also those inside functions; only `if TYPE_CHECKING:` is free.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FOLDERS = {
    "core": 0,
    "model": 1,
    "weights": 2,
    "data": 1,
    "predict": 3,
    "text": 3,
    "train": 3,
    "export": 3,
    "runtime": 3,
    "engine": 3,
    "evaluate": 4,
    "server": 5,
    "cli": 7,
}
EXCEPTIONS = {
    "__init__": 7,  # the package itself: names loaded on first use
    "__main__": 7,
    "weights/__init__": 1,
    "weights/catalog": 1,
    "data/loader": 2,
    "data/shards": 2,
    "train/loop": 4,
    "train/checkpoint": 4,
    "export/parity": 4,
    "export/artefacts": 4,
    "export/cache": 4,
    "engine/__init__": 2,
    "engine/tables": 2,
    "engine/records": 2,
    "engine/database": 2,
    "engine/store": 2,
    "engine/stages": 3,
    "engine/simulated_clicks": 4,
    "engine/annotator": 4,
    "engine/detector_training": 4,
    "engine/held_out": 4,
    "engine/retrain": 5,
    "engine/loop": 5,
    "engine/publish": 4,
    "evaluate/__init__": 2,
    "evaluate/metrics": 2,
    "evaluate/runner": 5,
    "evaluate/compare": 5,
    "evaluate/ablation": 5,
    "server/__init__": 4,
    "server/schemas": 4,
    "server/sessions": 4,
    "server/app": 6,
    "server/openapi": 6,
}
FREE_NAMES = {("anymask", "__version__")}  # a constant, no code


def layer_of(module: str, package: str = "anymask") -> int:
    """Layer of `anymask.folder.file`; KeyError for a folder that is in no table."""
    parts = module.split(".")[1:] or ["__init__"]
    if parts == [parts[0]] and parts[0] in FOLDERS:
        parts.append("__init__")
    name = "/".join(parts)
    return EXCEPTIONS[name] if name in EXCEPTIONS else FOLDERS[parts[0]]


def modules_under(source: Path) -> dict[str, Path]:
    modules = {}
    for path in sorted((source / "anymask").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


class Imports(ast.NodeVisitor):
    """Collects (line, module, name or None) of imports from anymask outside TYPE_CHECKING."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.package = module.split(".") if is_package else module.split(".")[:-1]
        self.found: list[tuple[int, str, str | None]] = []

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(node.lineno, alias.name, None) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) + 1 - node.level] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        self.found += [(node.lineno, module, alias.name) for alias in node.names]

    def visit_Call(self, node: ast.Call) -> None:
        is_loader = ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
        if is_loader and node.args and isinstance(node.args[0], ast.Constant):
            self.found.append((node.lineno, str(node.args[0].value), None))
        self.generic_visit(node)


def upward_imports(source: Path) -> list[str]:
    """One line for every import that points upwards, or comes from a folder without a layer."""
    modules = modules_under(source)
    complaints = []
    for module, path in modules.items():
        try:
            own = layer_of(module)
        except KeyError:
            complaints.append(
                f"{path.relative_to(source)}: no layer is set; add it to FOLDERS or EXCEPTIONS."
            )
            continue
        visitor = Imports(module, path.name == "__init__.py")
        visitor.visit(ast.parse(path.read_text()))
        for line, target, name in visitor.found:
            if target.split(".")[0] != "anymask" or (target, name) in FREE_NAMES:
                continue
            if name is not None and f"{target}.{name}" in modules:
                target = f"{target}.{name}"
            try:
                theirs = layer_of(target)
            except KeyError:
                complaints.append(f"{path.relative_to(source)}:{line}: {target} has no layer.")
                continue
            if theirs > own:
                complaints.append(
                    f"{path.relative_to(source)}:{line}: layer {own} imports {target} of layer {theirs}."
                )
    return complaints


def test_imports_point_downwards() -> None:
    assert modules_under(SOURCE), "found no source"
    assert upward_imports(SOURCE) == []


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "anymask" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/boxes.py", "from anymask.model.sam import Sam"),
        ("core/boxes.py", "import anymask.model.sam"),
        ("core/boxes.py", "def f():\n    from anymask.predict import predictor"),
        ("core/boxes.py", "from ..model import sam"),
        ("core/boxes.py", "import importlib\nimportlib.import_module('anymask.model.sam')"),
        ("core/__init__.py", "from ..model import sam"),
        ("train/losses.py", "from .loop import Trainer"),
        ("train/losses.py", "from anymask.train import loop"),
        ("evaluate/metrics.py", "from anymask.evaluate.point_to_mask import run"),
        ("model/sam.py", "if False:\n    from anymask.cli import main"),
        ("model/sam.py", "from anymask import SamPredictor"),
        ("strange/new.py", "x = 1"),
        ("core/boxes.py", "from anymask.strange import new"),
    ],
)
def test_the_check_catches(tmp_path: Path, name: str, text: str) -> None:
    others = {"model/sam.py": "", "train/loop.py": "", "predict/predictor.py": "", "cli/main.py": ""}
    assert len(upward_imports(write(tmp_path, {**others, name: text}))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model/sam.py", "from anymask.core.errors import InputError\nfrom .layers import MLP"),
        (
            "core/boxes.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from anymask.cli import main",
        ),
        ("train/loop.py", "from anymask.train import losses, checkpoint"),
        ("weights/load.py", "from anymask.weights import catalog\nfrom anymask.model import sam"),
        ("engine/store.py", "from anymask import __version__\nimport numpy as np"),
        ("cli/main.py", "import anymask\nfrom anymask.server.app import create_app"),
    ],
)
def test_the_check_allows(tmp_path: Path, name: str, text: str) -> None:
    others = {"train/losses.py": "", "train/checkpoint.py": "", "weights/catalog.py": "", "model/sam.py": ""}
    assert upward_imports(write(tmp_path, {**others, name: text})) == []
