"""A machine-learning backend for Label Studio: clicks and boxes drawn there come here, a brush goes back.

Connect `http://…/label-studio` as a model in Label Studio's project; its labelling set-up needs a BrushLabels, and
smart KeyPointLabels or RectangleLabels (`predict.formats.label_studio.setup_of` writes one). The protocol is that of
label-studio-ml-backend: /health, /setup, /predict, /webhook. Nothing is trained here.

A photo is read from a data URI, or from the Label Studio that the server was told of, and from nowhere else: an address
in a request must not make this machine fetch from others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from anymask.core.errors import ImageError, InputError
from anymask.core.geometry import Frame
from anymask.predict.formats.label_studio import to_result
from anymask.predict.records import MaskRecord
from anymask.server.routes_about import studio_of
from anymask.server.schemas import Prompt
from anymask.server.settings import Settings

PREFIX = "/label-studio"
FETCH_SECONDS = 20
router = APIRouter(prefix=PREFIX, include_in_schema=False)


class PredictRequest(BaseModel):
    """What Label Studio sends; keys that are not needed here are let through."""

    tasks: Annotated[list[dict[str, Any]], Field(max_length=64)] = []
    label_config: Annotated[str, Field(max_length=1_000_000)] | None = None
    params: dict[str, Any] | None = None


@dataclass(frozen=True)
class Controls:
    """Names in a labelling set-up: of the brush, of the photo, and of the photo's place in a task's data."""

    brush: str
    image: str
    data_key: str


@router.get("/")
@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Alive."""
    return {"status": "UP", "model_class": f"anymask {studio_of(request).name}"}


@router.post("/setup")
async def setup(request: Request) -> dict[str, str]:
    """The model's version."""
    return {"model_version": _version(request)}


@router.post("/webhook")
async def webhook(request: Request) -> dict[str, Any]:
    """Events of a project are heard and do nothing: training is a command of its own."""
    return {"status": "ok", "result": None}


@router.post("/predict")
async def predict(request: Request, body: PredictRequest) -> dict[str, Any]:
    """A mask for the clicks or the box that a person has just drawn; nothing for tasks without any."""
    context = (body.params or {}).get("context")
    with _reading("the request"):
        drawn = list((context or {}).get("result") or [])
        if not drawn or not body.tasks:
            return {"results": [], "model_version": _version(request)}
        controls = controls_of(body.label_config)
        address = str(body.tasks[0]["data"][controls.data_key])
    studio = studio_of(request)
    encoded = await asyncio.to_thread(read_photo, address, studio.settings)
    session = await studio.encode(encoded)
    prompt, label = prompt_of(drawn, session.embedding.frame)
    ((best, *_),) = await studio.predict(session, [prompt], None)
    record = MaskRecord(best.segmentation.model_dump(), best.predicted_iou, label=label)
    result = to_result(record, uuid.uuid4().hex[:10], controls.brush, controls.image)
    prediction = {"result": [result], "score": best.predicted_iou, "model_version": _version(request)}
    return {"results": [prediction], "model_version": _version(request)}


def controls_of(label_config: str | None) -> Controls:
    """The brush and the photo of a labelling set-up. InputError where it has none."""
    text = label_config or ""
    try:
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError("a labelling set-up declares no types or entities.")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"the labelling set-up cannot be read as XML: {error}") from error
    images = {image.get("name"): image.get("value", "") for image in root.iter("Image")}
    for brush in root.iter("BrushLabels"):
        value = images.get(brush.get("toName"), "")
        if brush.get("name") and value.startswith("$"):
            return Controls(str(brush.get("name")), str(brush.get("toName")), value[1:])
    raise InputError("the labelling set-up needs <Image name value='$…'> and <BrushLabels name toName> for it.")


def prompt_of(drawn: list[Any], frame: Frame) -> tuple[Prompt, str | None]:
    """Clicks and box of Label Studio's results, whose places are percents of the photo, and the label they carry."""
    height, width = frame.original_hw
    points: list[list[float]] = []
    labels: list[int] = []
    box: list[float] | None = None
    label: str | None = None
    with _reading("what was drawn"):
        for result in drawn:
            kind, value = result["type"], result["value"]
            if kind not in ("keypointlabels", "rectanglelabels"):
                continue
            x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
            if kind == "keypointlabels":
                points.append([x, y])
                labels.append(int(bool(int(result.get("is_positive", 1)))))
            else:
                box = [x, y, x + float(value["width"]) * width / 100, y + float(value["height"]) * height / 100]
            words = value.get(kind) or value.get("labels") or [None]
            label = None if words[0] is None else str(words[0])
        return Prompt(points=points, labels=labels, box=box), label  # type: ignore[arg-type]


def read_photo(address: str, settings: Settings) -> bytes:
    """The encoded photo of a data URI, or of the configured Label Studio. ImageError for anything else."""
    if address.startswith("data:"):
        head, _, content = address.partition(",")
        if not head.endswith(";base64"):
            raise ImageError("a photo in a data URI must be base64.")
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError(f"the photo's data URI is damaged: {error}.") from error
    home = settings.label_studio_url
    if home is None:
        raise ImageError(
            f"expected the photo as a data URI, got {address!r:.100}. To read photos from Label Studio, start the "
            "server with --label-studio and its address."
        )
    url = urljoin(home.rstrip("/") + "/", address)
    if _origin(url) != _origin(home):
        raise ImageError(f"the photo {address!r:.100} does not lie on {home}; photos of other places are not fetched.")
    return _fetch(url, settings)


def _fetch(url: str, settings: Settings) -> bytes:
    """At most `upload_bytes` from Label Studio; it must answer itself, not send elsewhere."""
    headers = {"authorization": f"Token {settings.label_studio_key}"} if settings.label_studio_key else {}
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=FETCH_SECONDS) as answer:
            content: bytes = answer.read(settings.upload_bytes + 1)
    except (OSError, ValueError) as error:  # URLError is an OSError
        code = f" ({error.code})" if isinstance(error, urllib.error.HTTPError) else ""
        hint = " Set LABEL_STUDIO_API_KEY to the access token of its account." if code in (" (401)", " (403)") else ""
        raise ImageError(f"the photo could not be read from Label Studio{code}.{hint}") from error
    if len(content) > settings.upload_bytes:
        raise ImageError(f"the photo is larger than the limit of {settings.upload_bytes:,} bytes.")
    return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that points elsewhere is an error: elsewhere may be a machine that only we can reach."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _origin(url: str) -> tuple[str, str, int | None]:
    with _reading("the address of the photo"):
        parts = urlsplit(url)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname or "", parts.port or default


def _version(request: Request) -> str:
    studio = studio_of(request)
    return f"anymask-{studio.name}-{studio.fingerprint[:8]}".rstrip("-")


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """What is not as Label Studio sends it becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{what} is not as Label Studio sends it: {error!r:.300}") from error
