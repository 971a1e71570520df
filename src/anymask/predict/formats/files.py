"""What the formats share: JSON in and out, files of one suffix in a folder, errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError
from anymask.core.files import write_aside


def write_json(content: Any, path: Path) -> Path:
    """Write JSON, whole or not at all."""
    with write_aside(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_text(text: str, path: Path) -> Path:
    """Write text, whole or not at all."""
    with write_aside(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return path


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object, or InputError with the reason."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def files_in(path: Path, pattern: str) -> list[Path]:
    """`path` itself if it is a file, else the files in it that match, by name."""
    return [path] if path.is_file() else sorted(p for p in path.glob(pattern) if p.is_file())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong inside into an InputError that names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path} is not in the expected form: {error!r}.") from error
