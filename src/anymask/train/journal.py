"""`log.jsonl`: one line of JSON for each step, each step once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anymask.core.files import write_aside


class Journal:
    """The log of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def forget_after(self, step: int) -> None:
        """Drop lines of later steps, which a run that was killed wrote and will write again, and a line cut in half."""
        if not self.path.exists():
            return
        lines = self.path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            with write_aside(self.path) as part:
                part.write_text("".join(line + "\n" for line in kept))

    def add(self, entry: dict[str, Any]) -> None:
        """Append one step."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
