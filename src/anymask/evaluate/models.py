"""The segmenter that a task evaluates, named on the command line and loaded once in each process."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anymask.core.errors import OptionError
from anymask.core.files import sha256_of
from anymask.core.types import Segmenter


@dataclass(frozen=True)
class ModelChoice:
    """A model by name or path (`load_model`), or `package.module:name` of something that makes any `Segmenter`.

    device, precision: as `place` takes them.
    """

    model: str = "lite"
    device: str = "cpu"
    precision: str = "auto"

    @cached_property
    def segmenter(self) -> Segmenter:
        """The loaded model."""
        if ":" in self.model and not Path(self.model).exists():
            module, _, name = self.model.partition(":")
            try:
                made: Any = getattr(importlib.import_module(module), name)()
            except (ImportError, AttributeError) as error:
                raise OptionError(
                    f"--model {self.model}: {error}. Expected module:name of a function or class that, called without "
                    "arguments, gives a Segmenter."
                ) from error
            return made
        from anymask.model.precision import place
        from anymask.predict.segmenter import TorchSegmenter
        from anymask.weights.load import load_model

        return TorchSegmenter(place(load_model(self.model), self.device, self.precision))

    def describe(self) -> dict[str, str]:
        """Name, precision, and for a file the hash of its bytes."""
        known = {"model": self.model, "device": self.device, "precision": self.precision}
        path = Path(self.model)
        if path.is_file():
            known["sha256"] = sha256_of(path)
        return known

    def __getstate__(self) -> dict[str, str]:
        return {"model": self.model, "device": self.device, "precision": self.precision}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
