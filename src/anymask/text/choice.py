"""Which model relates words to pictures, named on the command line and loaded on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from anymask.core.errors import OptionError

if TYPE_CHECKING:
    from anymask.text.embedders import TextEmbedder

OFFLINE = "offline"
TEXT_MODEL = "`offline`, a file of learned words, or a folder with a CLIP of open_clip."  # help of --text-model


@dataclass(frozen=True)
class TextChoice:
    """name: "offline" (inside PyPI packages), the same with a file of learned words (`anymask.text.learn`), or a folder
    with a CLIP of open_clip.
    """

    name: str = OFFLINE

    @property
    def is_clip(self) -> bool:
        """Is it a folder?"""
        return self.name != OFFLINE and not self._has_own_words

    @property
    def _has_own_words(self) -> bool:
        return self.name.endswith(".safetensors")

    @cached_property
    def embedder(self) -> TextEmbedder:
        """The loaded model."""
        if not self.is_clip:
            from anymask.text.embedders import OfflineEmbedder

            return OfflineEmbedder(Path(self.name)) if self._has_own_words else OfflineEmbedder()
        if not Path(self.name).is_dir():
            raise OptionError(
                f"--text-model is `{OFFLINE}`, a .safetensors file of learned words, or a folder with a CLIP of "
                f"open_clip; {self.name} is none of them."
            )
        from anymask.text.clip import ClipEmbedder

        return ClipEmbedder(self.name)

    def __getstate__(self) -> dict[str, str]:
        return {"name": self.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
