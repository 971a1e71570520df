"""Photos: upload one, fetch its embedding, let it go."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Request, Response

from anymask.core.arrays import as_numpy
from anymask.core.errors import ImageError
from anymask.server.routes_about import studio_of
from anymask.server.schemas import Photo, problem_responses
from anymask.server.sessions import Session

router = APIRouter(tags=["photos"])
PathId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="from the upload")]
_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"format": "binary"}}}}}


@router.post(
    "/api/images",
    status_code=201,
    openapi_extra=_BODY,
    responses=problem_responses(401, 403, 413, 415, 503),
)
async def upload(request: Request) -> Photo:
    """Upload a photo: the bytes of a JPEG, PNG, WebP … as the body. It is encoded, and only the embedding is kept."""
    studio = studio_of(request)
    encoded = bytearray()
    async for chunk in request.stream():
        encoded += chunk
    if not encoded:
        raise ImageError("the request has no body; expected the bytes of a photo.")
    session = await studio.encode(bytes(encoded))
    frame = session.embedding.frame
    return Photo(
        id=session.photo_id,
        width=frame.original_hw[1],
        height=frame.original_hw[0],
        input_hw=list(frame.input_hw),
        side=frame.side,
        embedding_bytes=2 * int(np.prod(session.embedding.features.shape)),
        encode_ms=session.encode_ms,
    )


@router.get(
    "/api/images/{photo_id}/embedding",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **problem_responses(401, 403, 404, 422)},
)
async def embedding(request: Request, photo_id: PathId) -> Response:
    """The embedding as little-endian float16, C×h×w; the shape is in `x-anymask-shape`."""
    return as_halves(studio_of(request).sessions.get(photo_id))


@router.delete("/api/images/{photo_id}", status_code=204, responses=problem_responses(401, 403, 404, 422))
async def forget(request: Request, photo_id: PathId) -> None:
    """Let a photo go."""
    studio_of(request).sessions.forget(photo_id)


def as_halves(session: Session) -> Response:
    """An embedding as float16 over the wire."""
    features = as_numpy(session.embedding.features)[0]
    limit = float(np.finfo(np.float16).max)
    shape = ",".join(str(n) for n in features.shape)
    return Response(
        features.clip(-limit, limit).astype("<f2").tobytes(),
        media_type="application/octet-stream",
        headers={"x-anymask-shape": shape, "cache-control": "private, max-age=3600"},
    )
