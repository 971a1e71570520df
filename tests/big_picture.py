"""Peak memory of tiling one large picture, in a process of its own: `python big_picture.py FILE`; for the tests.

Prints megabytes before the picture is touched and at the peak, and the number of masks.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
from tile_tools import Discs

from anymask.predict.everything import Plan, prepare, segment_photo
from anymask.predict.options import AutomaticOptions
from anymask.predict.sources import find_photos
from anymask.predict.tiles import Tiles


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(path: Path) -> None:
    tiles = Tiles(1024, 128)
    Discs().generate(np.zeros((1024, 1024, 3), np.uint8))  # what one tile needs
    plan = Plan(path.parent / "out", "sa1b", AutomaticOptions(), "discs", tiles=tiles)
    prepare(plan)
    before = peak_mb()
    outcome = segment_photo(Discs(), find_photos([path])[0], plan)  # type: ignore[arg-type]
    assert outcome.error is None, outcome.error
    print(before, peak_mb(), outcome.num_masks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
