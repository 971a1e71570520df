"""What goes into the store and comes out: small frozen records, checked where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anymask.core.errors import InputError, unknown_name
from anymask.core.rle import RLE, area, to_compressed
from anymask.engine.tables import AUTHORS, MASK_STATES, STAGES


@dataclass(frozen=True)
class NewMask:
    """A mask to be saved, with where it comes from.

    rle: COCO RLE of the image's size. author_kind: "person", "model" or "import"; author: the person's name, the
    model's version, the file. prompts: clicks, box and crop that led to it, anything JSON holds. seconds: a person's
    time on it. replaces: id of the version that it corrects. save_key: the caller's name for this save, unique in the
    image; a repeated save is recognised by it and adds nothing.

    Raises InputError for RLE that is not valid or an empty mask, OptionError for unknown names.
    """

    rle: Mapping[str, Any]
    author: str
    author_kind: str = "person"
    state: str = "proposed"
    prompts: Mapping[str, Any] | None = None
    predicted_iou: float | None = None
    stability_score: float | None = None
    seconds: float | None = None
    label: str | None = None
    model_version_id: int | None = None
    replaces: int | None = None
    save_key: str | None = None
    num_px: int = field(init=False)

    def __post_init__(self) -> None:
        if self.author_kind not in AUTHORS:
            raise unknown_name("author_kind", self.author_kind, list(AUTHORS))
        if self.state not in MASK_STATES:
            raise unknown_name("state", self.state, list(MASK_STATES))
        if not self.author:
            raise InputError("a mask needs an author: a person's name, a model's version or a file.")
        if self.seconds is not None and not 0 <= self.seconds < float("inf"):
            raise InputError(f"seconds must be 0 or more, got {self.seconds}.")
        object.__setattr__(self, "rle", to_compressed(self.rle))
        object.__setattr__(self, "num_px", area(self.rle))
        if not self.num_px:
            raise InputError("the mask is empty. Mark at least one pixel, or skip it.")

    @property
    def hw(self) -> tuple[int, int]:
        """Size (H, W)."""
        height, width = self.rle["size"]
        return int(height), int(width)

    @property
    def counts(self) -> bytes:
        """The compressed runs, as the store keeps them."""
        counts = self.rle["counts"]
        return counts if isinstance(counts, bytes) else str(counts).encode("ascii")


@dataclass(frozen=True)
class StoredMask:
    """A version of a mask as the store holds it; see the table `masks`."""

    id: int
    image_id: int
    rle: RLE
    state: str
    stage: int
    round_id: int
    version: int
    is_current: bool
    parent_id: int | None
    author_kind: str
    author: str
    model_version_id: int | None
    num_px: int
    prompts: dict[str, Any] | None
    predicted_iou: float | None
    stability_score: float | None
    seconds: float | None
    label: str | None
    created_at: float

    @classmethod
    def of(cls, row: Mapping[str, Any], hw: tuple[int, int]) -> StoredMask:
        """From a row of the table `masks` and its image's size (H, W)."""
        rle = {"size": list(hw), "counts": bytes(row["rle"]).decode("ascii")}
        return cls(rle=rle, **{name: row[name] for name in cls.__dataclass_fields__ if name != "rle"})


@dataclass(frozen=True)
class StoredImage:
    """A photo as the store knows it. problem: why it cannot be read; hw is None then."""

    id: int
    place: str
    sha256: str
    hw: tuple[int, int] | None
    problem: str | None


@dataclass(frozen=True)
class NewImage:
    """A photo to be added: its full path, its content's hash and size, (H, W) or the problem that hides it."""

    place: str
    sha256: str
    num_bytes: int
    hw: tuple[int, int] | None
    problem: str | None = None


@dataclass(frozen=True)
class Round:
    """A stage of the paper, served by one model; masks and tasks belong to one. number counts from 1."""

    id: int
    project_id: int
    number: int
    stage: int
    model_version_id: int | None

    @property
    def stage_name(self) -> str:
        """In the paper's words."""
        return STAGES[self.stage]


@dataclass(frozen=True)
class Lease:
    """A task that one worker holds until `until` (seconds since 1970, the database's clock).

    token: changes with every lease; what is saved under an old one is refused.
    """

    task_id: int
    project_id: int
    image_id: int
    round_id: int
    stage: int
    kind: str
    worker: str
    token: str
    seconds: float
    until: float
