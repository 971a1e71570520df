"""What goes over the wire. The limits here keep a request from costing more than its bytes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_PROMPTS, MAX_POINTS, MAX_OBJECTS, MAX_RLE_CHARS = 64, 128, 2000, 4_000_000

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
PhotoId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Wire(BaseModel):
    """Unknown keys are refused: a typo must not be taken for a default."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Problem(Wire):
    """What was expected, what came, what to do next."""

    detail: str


class Health(Wire):
    """Alive, and how busy."""

    status: Literal["ok"] = "ok"
    version: str
    model: str
    waiting: int
    photos: int
    app: bool = Field(description="the browser app is built")


class ModelInfo(Wire):
    """The model, and where the browser finds its own copy of it."""

    name: str
    fingerprint: str
    stamp: str = Field(description="another one for other weights")
    side: int
    mask_threshold: float
    pixel_mean: list[float]
    pixel_std: list[float]
    embedding_shape: list[int]
    files: dict[str, str] = Field(description="role (encoder, prepare, decode …) → address")
    automatic: dict[str, float] = Field(description="thresholds that suit this model")
    upload_bytes: int
    upload_pixels: int
    words: bool = Field(description="masks can be asked for by a phrase")


class Sample(Wire):
    """A photo to try."""

    name: str
    title: str
    credit: str
    url: str


class Photo(Wire):
    """An uploaded photo."""

    id: PhotoId
    width: int
    height: int
    input_hw: list[int] = Field(description="size inside the model's square")
    side: int
    embedding_bytes: int
    encode_ms: float


class Rle(Wire):
    """COCO run lengths: compressed text, or a list."""

    size: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=2, max_length=2)]
    counts: (
        Annotated[str, Field(max_length=MAX_RLE_CHARS)]
        | Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(max_length=1_000_000)]
    )


class Prompt(Wire):
    """One object: points, a box, a mask, or several of them, in pixels of the photo; or words.

    text: alone it looks through the whole photo, beside the others it ranks their candidates.
    """

    points: Annotated[
        list[Annotated[list[Coordinate], Field(min_length=2, max_length=2)]], Field(max_length=MAX_POINTS)
    ] = []
    labels: Annotated[list[Literal[0, 1]], Field(max_length=MAX_POINTS)] = []
    box: Annotated[list[Coordinate], Field(min_length=4, max_length=4)] | None = None
    mask: Rle | None = None
    text: Phrase | None = None

    @property
    def is_pointed(self) -> bool:
        """Does it say where?"""
        return bool(self.points) or self.box is not None or self.mask is not None

    @model_validator(mode="after")
    def _is_something(self) -> Prompt:
        if len(self.points) != len(self.labels):
            raise ValueError(f"points need one label each: {len(self.points)} points, {len(self.labels)} labels")
        if not self.is_pointed and self.text is None:
            raise ValueError("a prompt needs points, a box, a mask or text")
        return self


class Predict(Wire):
    """Several objects of one photo; `multimask` null takes three candidates for a single click or box, else one."""

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]
    multimask: bool | None = None


class Mask(Wire):
    """A mask with what the model thinks of it. bbox: x, y, w, h."""

    segmentation: Rle
    area: int
    bbox: list[int]
    predicted_iou: float
    text_similarity: float | None = Field(default=None, description="cosine with the prompt's text")


class Answer(Wire):
    """Candidates of one prompt, best predicted IoU first; with text the most similar first."""

    candidates: list[Mask]


class Answers(Wire):
    """One answer for each prompt, in order."""

    objects: list[Answer]
    decode_ms: float


class Everything(Wire):
    """Options of the automatic masks; null takes what suits the model. text: masks that fit it come first."""

    text: Phrase | None = None
    points_per_side: Annotated[int, Field(ge=1, le=64)] = 32
    pred_iou_thresh: Share | None = None
    stability_score_thresh: Share | None = None
    box_nms_thresh: Share | None = None
    min_mask_region_area: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0
    max_masks: Annotated[int, Field(ge=1, le=MAX_OBJECTS)] = 500


class ExportObject(Wire):
    """An object to write."""

    segmentation: Rle
    label: Annotated[str, Field(max_length=200)] | None = None
    predicted_iou: Annotated[float, Field(allow_inf_nan=False)] | None = None
    stability_score: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Export(Wire):
    """Masks of one photo as a file of a known format."""

    format: Literal["coco", "coco_polygons", "yolo", "sa1b", "labelme", "cvat", "label_studio", "png", "labelmap"]
    file_name: Annotated[str, Field(max_length=255)] = "photo.jpg"
    width: Annotated[int, Field(ge=1, le=100_000)]
    height: Annotated[int, Field(ge=1, le=100_000)]
    objects: Annotated[list[ExportObject], Field(max_length=MAX_OBJECTS)]


def problem_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for these status codes."""
    words = {
        400: "not a valid request",
        401: "the token is missing or wrong",
        403: "from another site",
        404: "no such photo or file",
        409: "somebody else was faster; nothing of this was kept",
        410: "the photo's file is gone or has changed",
        413: "too large",
        415: "not an image",
        501: "a part of the server is not installed",
        422: "cannot be used as it is",
        503: "busy; Retry-After tells when to come back",
    }
    return {code: {"model": Problem, "description": words[code]} for code in codes}
