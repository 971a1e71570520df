"""Photos that clients are working on: their embeddings, bounded in bytes, the longest unused go first."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anymask.core.errors import InputError
from anymask.core.types import Embedding, Segmenter


class UnknownPhotoError(InputError):
    """No such photo here: never uploaded, or let go to make room."""

    def __init__(self, photo_id: str) -> None:
        super().__init__(f"no photo {photo_id!r:.60} is held here: it was never uploaded or has made room; upload it.")


@dataclass(frozen=True)
class Session:
    """One photo as its embedding, with the model that made it and answers its prompts.

    picture: a small JPEG copy where phrases may be asked; else no pixels are kept.
    """

    photo_id: str
    segmenter: Segmenter
    embedding: Embedding
    encode_ms: float
    picture: bytes = b""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return num_bytes(self.embedding.features) + len(self.picture)


class Sessions:
    """Embeddings by photo id, at most `max_bytes` of them; safe to use from any thread."""

    def __init__(self, max_bytes: int, on_evict: Callable[[], None] = lambda: None) -> None:
        self._max_bytes, self._on_evict = max_bytes, on_evict
        self._held: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, session: Session) -> None:
        """Keep one; others go if the room is short. The newest always stays."""
        with self._lock:
            self._drop(session.photo_id)
            self._held[session.photo_id] = session
            self.held_bytes += session.num_bytes
            while self.held_bytes > self._max_bytes and len(self._held) > 1:
                self._drop(next(iter(self._held)))
                self._on_evict()

    def get(self, photo_id: str) -> Session:
        """The session of a photo, which counts as use; UnknownPhotoError if there is none."""
        with self._lock:
            if photo_id not in self._held:
                raise UnknownPhotoError(photo_id)
            self._held.move_to_end(photo_id)
            return self._held[photo_id]

    def find(self, photo_id: str) -> Session | None:
        """As `get`, None if there is none."""
        try:
            return self.get(photo_id)
        except UnknownPhotoError:
            return None

    def forget(self, photo_id: str) -> None:
        """Let one go; UnknownPhotoError if there is none."""
        self.get(photo_id)
        with self._lock:
            self._drop(photo_id)

    def clear(self) -> None:
        """Let all go."""
        with self._lock:
            self._held.clear()
            self.held_bytes = 0

    def _drop(self, photo_id: str) -> None:
        dropped = self._held.pop(photo_id, None)
        if dropped is not None:
            self.held_bytes -= dropped.num_bytes


def photo_id_of(encoded: bytes) -> str:
    """The same bytes have the same id, so nobody waits twice for one photo."""
    return hashlib.sha256(encoded).hexdigest()[:32]


def num_bytes(features: Any) -> int:
    """Size of a tensor or array."""
    if hasattr(features, "element_size"):
        return int(features.numel() * features.element_size())
    return int(features.nbytes)
