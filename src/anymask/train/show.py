"""What a person sees of a run: a bar with photos a second, loss, IoU and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, int, list[dict[str, float]]], None]


@contextmanager
def progress(first: int, end: int, quiet: bool = False) -> Iterator[Show]:
    """A function to call after every step with (step, photos of the step, means of each round).

    A live bar on a terminal; elsewhere one line every 30 seconds. quiet: nothing, for all processes but the first.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started, photos, told = time.monotonic(), 0, time.monotonic()
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=end, completed=first)

        def show(step: int, new_photos: int, rounds: list[dict[str, float]]) -> None:
            nonlocal photos, told
            photos += new_photos
            seconds = time.monotonic() - started
            text = f"{photos / seconds:.1f} photos/s  loss {rounds[0]['loss']:.3f}  IoU {rounds[0]['best_iou']:.2f}"
            bar.update(task, completed=step, description=text)
            if not quiet and not console.is_terminal and time.monotonic() - told > 30:
                told = time.monotonic()
                left = (end - step) * seconds / (step - first) / 60
                print(f"step {step}/{end}  {text}  {left:.0f} min left", file=sys.stderr, flush=True)

        yield show
