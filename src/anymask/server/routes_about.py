"""What this server is: health, metrics, the model and its files for the browser, sample photos."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from anymask import __version__
from anymask.predict.options import AutomaticOptions, preset_for
from anymask.server.pages import has_app
from anymask.server.samples import list_samples, read_sample
from anymask.server.schemas import Health, ModelInfo, Sample, problem_responses
from anymask.server.studio import Studio

router = APIRouter(tags=["about"])
_FOREVER = "private, max-age=31536000, immutable"


def studio_of(request: Request) -> Studio:
    """The server's one object."""
    studio: Studio = request.app.state.studio
    return studio


@router.get("/api/health", responses=problem_responses(403))
async def health(request: Request) -> Health:
    """Alive, and how busy."""
    studio = studio_of(request)
    return Health(
        version=__version__,
        model=studio.name,
        waiting=studio.lane.waiting,
        photos=len(studio.sessions),
        app=has_app(),
    )


@router.get("/metrics", response_class=Response, responses=problem_responses(401, 403))
async def metrics(request: Request) -> Response:
    """Prometheus' text form."""
    return Response(studio_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/api/model", responses=problem_responses(401, 403))
async def model(request: Request) -> ModelInfo:
    """The model, and where the browser finds its own copy of it."""
    studio = studio_of(request)
    options = AutomaticOptions.of(preset_for(studio.segmenter))
    about: dict[str, Any] = {"pixel_mean": [], "pixel_std": [], "embedding_shape": [], **studio.browser.about}
    return ModelInfo(
        name=studio.name,
        fingerprint=studio.fingerprint,
        stamp=studio.stamp,
        side=studio.segmenter.side,
        mask_threshold=studio.segmenter.mask_threshold,
        files={role: f"/models/{role}.onnx?v={studio.stamp}" for role in studio.browser.files},
        automatic={
            "pred_iou_thresh": options.pred_iou_thresh,
            "stability_score_thresh": options.stability_score_thresh,
            "stability_score_offset": options.stability_score_offset,
            "box_nms_thresh": options.box_nms_thresh,
        },
        upload_bytes=studio.settings.upload_bytes,
        upload_pixels=studio.settings.upload_pixels,
        words=studio.words.is_there,
        **about,
    )


@router.get("/models/{role}.onnx", response_class=FileResponse, responses=problem_responses(401, 403, 404))
async def model_file(request: Request, role: str) -> FileResponse:
    """A graph for the browser, by its role; the name is looked up in a table, never on the disk."""
    path = studio_of(request).browser.files.get(role)
    if path is None:
        raise HTTPException(404, f"no graph {role!r:.40}; known: {', '.join(studio_of(request).browser.files)}.")
    return FileResponse(path, media_type="application/octet-stream", headers={"cache-control": _FOREVER})


@router.get("/api/samples", responses=problem_responses(401, 403))
async def samples() -> list[Sample]:
    """Photos to try."""
    return list_samples()


@router.get("/api/samples/{name}.jpg", response_class=Response, responses=problem_responses(401, 403, 404))
async def sample(name: str) -> Response:
    """One of them."""
    encoded = read_sample(name)
    if encoded is None:
        raise HTTPException(404, f"no sample {name!r:.40}.")
    return Response(encoded, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})
