"""The server takes over another model without a restart, as soon as one is promoted in the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from anymask.core.types import Segmenter
from anymask.engine.models import ModelVersion, ModelWatch
from anymask.server.lane import BusyError
from anymask.server.studio import BrowserModel, Studio

POLL_SECONDS = 5.0  # one indexed query each
RETRY_SECONDS = 0.5  # where the model has too much to do
_log = logging.getLogger("anymask.server")

Load = Callable[[ModelVersion], tuple[Segmenter, BrowserModel]]


class ModelSwitch:
    """A thread that asks the store for the serving version and lets the studio adopt it.

    load: makes the model and its copy for browsers; it runs beside the model in use, which goes on answering. A version
    that cannot be loaded is told to the log, and the model in use stays.
    """

    def __init__(self, studio: Studio, watch: ModelWatch, load: Load, every: float = POLL_SECONDS) -> None:
        self._studio, self._watch, self._load, self._every = studio, watch, load, every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="anymask-switch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the query that runs."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            self.look()

    def look(self) -> ModelVersion | None:
        """One look at the store; the version that was taken over, if any."""
        name = "the serving version"
        try:
            version = self._watch.poll()
            if version is None:
                return None
            name = f"version {version.name}"
            made = self._load(version)
            while not self._adopt(*made, version.name):
                if self._stopping.wait(RETRY_SECONDS):
                    return None
        except Exception as error:  # whatever is wrong with one version, the next may be good
            _log.warning("%s was not taken over, the model in use stays: %s", name, error)
            return None
        _log.warning("%s serves now", name)
        return version

    def _adopt(self, segmenter: Segmenter, browser: BrowserModel, name: str) -> bool:
        try:
            self._studio.adopt(segmenter, browser, name)
        except BusyError:
            return False
        return True
