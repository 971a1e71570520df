"""What goes over the wire between people who annotate or review and the store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from anymask.server.schemas import MAX_OBJECTS, MAX_POINTS, Coordinate, Rle, Share, Wire

Worker = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
SaveKey = Annotated[str, Field(pattern=r"^[0-9A-Za-z._:-]{8,64}$", description="made by the client, new for each save")]
StoredId = Annotated[int, Field(ge=1, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Kind = Literal["annotate", "review"]
State = Literal["proposed", "accepted", "rejected"]


class ProjectInfo(Wire):
    """A project of the store, and what is left to do. Numbers of tasks: open ones are free to take."""

    name: str
    round: int
    stage: int
    stage_name: str
    photos: int
    masks: int
    annotate: dict[str, int] = Field(description="state (open, leased, done, skipped) → tasks")
    review: dict[str, int]
    is_reviewed: bool = Field(description="a finished photo goes to somebody else for a second look")
    model: str = Field(description="the stamp of the model that serves")


class StoredMaskInfo(Wire):
    """The current version of a mask. is_prefilled: a model proposed it and nobody has touched it."""

    id: int
    segmentation: Rle
    state: State
    stage: int
    version: int
    author_kind: Literal["person", "model", "import"]
    author: str
    label: str | None
    predicted_iou: float | None
    is_prefilled: bool


class NextTask(Wire):
    """Who asks for work, and what is in hand already."""

    worker: Worker
    kind: Kind = "annotate"
    besides: Annotated[list[StoredId], Field(max_length=64, default_factory=list)]


class Task(Wire):
    """A photo to work on, leased until `lease_seconds` after the last sign of life."""

    id: int
    token: Token
    kind: Kind
    stage: int
    image_id: int
    file_name: str
    width: int
    height: int
    lease_seconds: float
    masks: list[StoredMaskInfo]


class NextAnswer(Wire):
    """A task, or null where nothing is left for this person."""

    task: Task | None


class Hold(Wire):
    """The lease that a step is done under."""

    worker: Worker
    token: Token


class Click(Wire):
    """A click in pixels of the photo."""

    x: Coordinate
    y: Coordinate
    adds: bool


class Prompts(Wire):
    """What a person did for a mask."""

    clicks: Annotated[list[Click], Field(max_length=MAX_POINTS, default_factory=list)]
    box: Annotated[list[Coordinate], Field(min_length=4, max_length=4)] | None = None
    num_strokes: Annotated[int, Field(ge=0, le=MAX_OBJECTS)] = 0


class Drawn(Wire):
    """A mask that a person made, under the key that names this save."""

    save_key: SaveKey
    segmentation: Rle
    prompts: Annotated[Prompts, Field(default_factory=Prompts)]
    predicted_iou: Annotated[float, Field(allow_inf_nan=False)] | None = None
    stability_score: Share | None = None
    seconds: Seconds | None = None
    label: Label | None = None


class SaveMask(Hold):
    """A mask of a leased task. replaces: the version that it corrects."""

    mask: Drawn
    replaces: StoredId | None = None


class Saved(Wire):
    """The mask's id, the same for a repeated save."""

    id: int


class Finish(Hold):
    """The task is done, or skipped. seconds: in all."""

    skip: bool = False
    seconds: Seconds | None = None


class NewReview(Wire):
    """A second look. edited: the corrected mask of an edit."""

    reviewer: Worker
    action: Literal["accept", "edit", "reject"]
    edited: Drawn | None = None
    seconds: Seconds | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None


class Undo(Wire):
    """Who takes a review back."""

    reviewer: Worker


class Reviewed(Wire):
    """The review's id, and the mask that is current now."""

    id: int
    mask_id: int


class Event(Wire):
    """Something that happened to a mask: a version was saved, or a review was made. at: seconds since 1970."""

    what: Literal["saved", "accept", "edit", "reject", "undo"]
    who: str
    at: float
    mask_id: int
    version: int
    seconds: float | None
    note: str | None = None


class History(Wire):
    """All that happened to a mask, oldest first."""

    events: list[Event]
