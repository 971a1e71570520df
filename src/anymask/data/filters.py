"""Which masks are worth learning from, by their size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anymask.core.errors import OptionError
from anymask.core.rle import area
from anymask.data.readers.photo import Photo


@dataclass(frozen=True)
class MaskFilter:
    """Keeps the masks of a photo whose area lies within limits; empty ones never.

    min_share, max_share: area relative to the photo's, 0..1; the paper drops masks over 0.9 (PAPER §3.3).
    min_area_px: pixels at the size of the masks; the text-to-mask model takes 100² (PAPER §3.4).
    """

    min_share: float = 0.0
    max_share: float = 1.0
    min_area_px: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_share <= self.max_share <= 1:
            raise OptionError(f"expected 0 ≤ min_share ≤ max_share ≤ 1, got {self.min_share} and {self.max_share}.")

    def __call__(self, photo: Photo) -> Photo:
        """The photo with the masks that pass, and their labels."""
        total = photo.hw[0] * photo.hw[1]
        low, high = max(1, self.min_area_px, self.min_share * total), self.max_share * total
        kept = [i for i, rle in enumerate(photo.rles) if low <= area(rle) <= high]
        if len(kept) == len(photo.rles):
            return photo
        labels = [photo.labels[i] for i in kept] if photo.labels else []
        return replace(photo, rles=[photo.rles[i] for i in kept], labels=labels)
