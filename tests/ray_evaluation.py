"""Evaluations on Ray in a process of their own: `python ray_evaluation.py FOLDER`; for the tests of the runner.

A task without a model and `anymask evaluate points`, on one cluster; what came of them goes to `told` as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from test_evaluate_runner import Doubling
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import CheckpointError
from anymask.evaluate.contract import Case
from anymask.evaluate.runner import run_task
from anymask.predict.ray_engine import RaySettings, ray_cluster


@dataclass
class Deadly(Doubling):
    """Its process dies on 13 each time, on 7 the first time; 99 is an error that ends the run."""

    def score(self, case: Case) -> dict[str, Any]:
        row = super().score(case)
        died = self.log.with_name(f"died-{case.payload}")
        if case.payload == 13 or (case.payload == 7 and not died.exists()):
            died.touch()
            os._exit(1)
        if case.payload == 99:
            raise CheckpointError("there are no weights")
        return row


def all_of_them(base: Path, settings: RaySettings) -> dict[str, Any]:
    """What came of each."""
    outcome = run_task(Deadly([1, 2, -3, 7, 13, 5], Path("log")), base / "out", settings)
    told: dict[str, Any] = {"summary": outcome.summary, "failed": outcome.failed}
    try:
        run_task(Deadly([1, 99, 2], base / "other-log"), None, settings)
    except CheckpointError as error:
        told["error"] = str(error)
    words = ["evaluate", "points", "--data", str(base / "set"), "--method", "grabcut", "--out", str(base / "points")]
    done = CliRunner().invoke(app, [*words, "--set", "clicks=[1]", "--engine", "ray", "--workers", "2"])
    told["command"] = [done.exit_code, done.output]
    return told


def main(base: Path) -> None:
    """base: holds photos with masks in `set`."""
    settings = RaySettings(2, attempts=2)
    with ray_cluster(settings):
        (base / "told").write_text(json.dumps(all_of_them(base, settings)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
