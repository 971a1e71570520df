"""A simulated annotator in a process of its own, for tests that kill it: `engine_annotator.py DB TRUTH`.

Prints a line after each saved mask and waits for one on standard input before it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anymask.engine import annotator
from anymask.engine.models import first_version, load_version
from anymask.engine.store import open_store
from anymask.engine.truth import read_truth


def main() -> None:
    place, truth = sys.argv[1:]
    store = open_store(place)
    project = store.project_id()
    save = annotator.save_masks

    def told(*args: object) -> list[int]:
        ids = save(*args)
        print(f"saved {ids[0]}", flush=True)
        sys.stdin.readline()
        return ids

    annotator.save_masks = told
    person = annotator.SimulatedAnnotator(
        store, load_version(first_version(store, project)), read_truth([Path(truth)]), "anna"
    )
    person.work(project)


if __name__ == "__main__":
    main()
