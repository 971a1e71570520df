"""How far a long run is, on standard error: photos done, photos an hour, time left."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anymask.predict.everything import Outcome

LINE_EVERY_S = 30.0  # where there is no terminal, as in a cluster's log


class Bar:
    """A bar on a terminal, a line now and then elsewhere.

    total: of what `step` is told, in any unit. each: what one photo is of that, where all are alike.
    """

    def __init__(self, total: float, each: float = 0.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._is_terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            console=Console(stderr=True),
            disable=not self._is_terminal,
        )
        self._task = self._progress.add_task("photos", total=total, text="photos 0", rate="")
        self._total, self._each, self._advanced, self._skipped = total, each, 0.0, 0.0
        self._started = self._latest_line = time.perf_counter()
        self._done = self._worked = self._failed = 0
        self._part = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def skip(self, num_photos: int, amount: float) -> None:
        """Photos that were done before the run."""
        self._done += num_photos
        self._advanced += amount
        self._skipped += amount
        self._show()

    def step(self, outcome: Outcome, amount: float) -> None:
        """A photo is done; a failure is told at once."""
        if outcome.error is not None:
            print(f"anymask: {outcome.source.name}: {outcome.error}", file=sys.stderr)
            self._failed += 1
        self._done += 1
        self._part = 0.0
        self._advanced += amount
        if outcome.skipped:
            self._skipped += amount
        else:
            self._worked += 1
        self._show()

    def within(self, part: float) -> None:
        """Part of the current photo that is done; for totals that count photos."""
        self._part = part
        self._show()

    def text(self) -> str:
        """Photos done, and failed ones."""
        return f"photos {self._done:,}" + (f", {self._failed:,} failed" if self._failed else "")

    def rate(self) -> str:
        """Photos an hour and time left, from what this run did itself."""
        elapsed = max(1e-9, time.perf_counter() - self._started)
        text = f"{3600 * (self._worked + self._part) / elapsed:,.0f} photos/h"
        now = self._advanced + self._part * self._each
        did = now - self._skipped
        if did > 0:
            text += f", {duration(max(0.0, self._total - now) * elapsed / did)} left"
        return text

    def _show(self) -> None:
        if self._is_terminal:
            shown = self._advanced + self._part * self._each
            self._progress.update(self._task, completed=shown, text=self.text(), rate=self.rate())
        elif time.perf_counter() - self._latest_line >= LINE_EVERY_S:
            self._latest_line = time.perf_counter()
            share = (self._advanced + self._part * self._each) / self._total if self._total else 1.0
            print(f"anymask: {self.text()} ({share:.0%}), {self.rate()}", file=sys.stderr)


def duration(seconds: float) -> str:
    """Time for people, in its two largest units."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(hours / 24)} d {int(hours % 24)} h"
