"""What an evaluation task is: cases that can be scored one at a time, and a table made of their rows.

A new task is one new file with a subclass of `Task` and an entry in `cli/evaluate.py`. The runner does the rest:
processes, going on after a stop, files, pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One unit of work, usually a photo. name: unique in the task. source: its data set. payload: must pickle. effort:
    beside that of others; what takes longest begins first where several work, so that all end together.
    """

    name: str
    source: str
    payload: Any
    effort: float = 0


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers beside published ones. rows: the first cell is the row's name; None is empty.

    note: what a reader must know to compare. digits: after the point.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""
    digits: int = 1


@dataclass(frozen=True)
class Curve:
    """A line of a plot: name, x and y of the same length. like: the curve whose colour it has, with open marks."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    like: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure of curves. ticks: names of the places 0, 1, … on the x axis. log_x: a logarithmic one."""

    name: str
    x_label: str
    y_label: str
    curves: list[Curve] = field(default_factory=list)
    ticks: tuple[str, ...] = ()
    log_x: bool = False


@dataclass(frozen=True)
class Bars:
    """A figure of horizontal bars, a panel for each of `panels`: its title to one value for each label."""

    name: str
    x_label: str
    labels: list[str]
    panels: dict[str, list[float]]


class Task(ABC):
    """An evaluation. Holds only what pickles: paths, names, protocol; models are loaded on first use in each process.

    name: the verb. method: what is evaluated. protocol: a dataclass whose fields are the choices, stored in the result.
    """

    name: str
    method: str
    protocol: Any

    @abstractmethod
    def cases(self) -> list[Case]:
        """All cases; fills `problems` with what cannot be used."""

    @abstractmethod
    def score(self, case: Case) -> dict[str, Any]:
        """The row of a case, ready for JSON. Raises InputError for a case that cannot be scored.

        Key `quality`, if there: a number, the lower the worse, by which the worst cases are shown.
        """

    @abstractmethod
    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Numbers of the whole from the rows; each has `case` and `source` added."""

    @abstractmethod
    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """The numbers beside published ones."""

    def plots(self, summary: dict[str, Any]) -> Sequence[Plot | Bars]:
        """Figures, if the task has any."""
        return []

    def picture(self, case: Case, row: dict[str, Any]) -> np.ndarray | None:
        """A picture (H, W, 3) uint8 of a case for the folder of worst cases, or None."""
        return None

    def describe(self) -> dict[str, Any]:
        """What besides the protocol decides the numbers: data, weights; ready for JSON."""
        return {}

    @property
    def problems(self) -> list[str]:
        """What `cases` found missing or broken, one line each, named."""
        return self.__dict__.setdefault("_problems", [])
