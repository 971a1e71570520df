"""Masks: for prompts, of everything, and as files."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from anymask.predict.options import AutomaticOptions, preset_for
from anymask.server.exports import export as to_file
from anymask.server.routes_about import studio_of
from anymask.server.routes_photos import PathId
from anymask.server.schemas import Answer, Answers, Everything, Export, Predict, problem_responses
from anymask.server.spoken import predict_spoken

router = APIRouter(tags=["masks"])
_FILES: dict[str, dict[str, Any]] = {
    "application/zip": {},
    "application/json": {},
    "application/xml": {},
    "image/png": {},
    "text/plain": {},
    "application/octet-stream": {},
}
_REFUSALS = problem_responses(400, 401, 403, 404, 413, 422, 503)


@router.post("/api/images/{photo_id}/predict", responses={**_REFUSALS, **problem_responses(501)})
async def predict(request: Request, photo_id: PathId, body: Predict) -> Answers:
    """Masks for points, boxes, masks and words."""
    studio = studio_of(request)
    session = studio.sessions.get(photo_id)
    started = time.perf_counter()
    if any(prompt.text is not None for prompt in body.prompts):
        found = await predict_spoken(studio, session, body.prompts, body.multimask)
    else:
        found = await studio.predict(session, body.prompts, body.multimask)
    return Answers(
        objects=[Answer(candidates=candidates) for candidates in found],
        decode_ms=1e3 * (time.perf_counter() - started),
    )


@router.post(
    "/api/images/{photo_id}/everything",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {}}}, **_REFUSALS, **problem_responses(501)},
)
async def everything(request: Request, photo_id: PathId, body: Everything) -> StreamingResponse:
    """Every mask, without prompts; with `text` those that fit it come first.

    A JSON object a line: `progress` with done and total, at the end `result`.

    Close the connection to end the search.
    """
    studio = studio_of(request)
    given = {
        name: value
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
        if (value := getattr(body, name)) is not None
    }
    given["min_mask_region_area"] = body.min_mask_region_area
    options = AutomaticOptions.of(preset_for(studio.segmenter), points_per_side=body.points_per_side, **given)
    events = studio.everything(studio.sessions.get(photo_id), options, body.text)
    first = await anext(events)  # before the status is sent: a full server still answers 503

    async def lines() -> AsyncIterator[bytes]:
        event: dict[str, Any] = first
        try:
            while True:
                if event["type"] == "result":
                    event["masks"] = event["masks"][: body.max_masks]
                yield json.dumps(event).encode() + b"\n"
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.post(
    "/api/export",
    response_class=Response,
    responses={200: {"content": _FILES}, **problem_responses(400, 401, 403, 413, 422, 503)},
)
async def export(request: Request, body: Export) -> Response:
    """Masks of one photo as a file; several files come as a zip."""
    studio = studio_of(request)
    content, media_type, name = await studio.in_bulk(lambda: to_file(body, studio.settings.upload_pixels))
    ascii_name = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    return Response(
        content, media_type=media_type, headers={"content-disposition": f'attachment; filename="{ascii_name}"'}
    )
