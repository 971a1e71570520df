"""People at work on a project: the next photo, masks of it, second looks. Every step may be repeated safely."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from anymask.core.errors import ImageError
from anymask.engine import desk, leases
from anymask.engine.records import Lease, NewMask
from anymask.engine.report import status
from anymask.engine.tables import STAGES
from anymask.server.project import Project, for_browser, read_photo, to_wire
from anymask.server.routes_about import studio_of
from anymask.server.routes_photos import as_halves
from anymask.server.schemas import problem_responses
from anymask.server.schemas_project import (
    Drawn,
    Event,
    Finish,
    History,
    Hold,
    NewReview,
    NextAnswer,
    NextTask,
    ProjectInfo,
    Reviewed,
    Saved,
    SaveMask,
    Task,
    Undo,
)

router = APIRouter(tags=["project"])
PathKey = Annotated[int, Path(ge=1, le=2**53)]
_REFUSALS = problem_responses(400, 401, 403, 404, 409, 413, 422, 503)
_PICTURE: dict[str, Any] = {"image/jpeg": {}, "image/png": {}, "image/webp": {}, "image/gif": {}}


def project_of(request: Request) -> Project:
    """The project that is served; 404 where there is none."""
    project: Project | None = request.app.state.project
    if project is None:
        raise HTTPException(404, "this server has no project; start it with `anymask serve --store masks.db`.")
    return project


@router.get("/api/project", responses=problem_responses(401, 403, 404, 503))
def project(request: Request) -> ProjectInfo:
    """The project and what is left to do."""
    served = project_of(request)
    now, current = status(served.store, served.id), served.store.current_round(served.id)
    return ProjectInfo(
        name=served.name,
        round=current.number,
        stage=current.stage,
        stage_name=STAGES[current.stage],
        photos=now.num_images,
        masks=now.num_masks,
        annotate=now.tasks.get("annotate", {}),
        review=now.tasks.get("review", {}),
        is_reviewed=served.is_reviewed,
        model=studio_of(request).stamp,
    )


# --- photos -----------------------------------------------------------------------------------------------------------


@router.get(
    "/api/project/images/{image_id}",
    response_class=Response,
    responses={200: {"content": _PICTURE}, **problem_responses(401, 403, 404, 410, 422, 503)},
)
def photo(request: Request, image_id: PathKey) -> Response:
    """A photo's file, by its id in the store; no path is ever taken from a client."""
    served = project_of(request)
    try:
        encoded, media_type = for_browser(read_photo(served.image(image_id)))
    except ImageError as error:
        raise HTTPException(410, str(error)) from error
    return Response(encoded, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


@router.get(
    "/api/project/images/{image_id}/embedding",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **problem_responses(401, 403, 404, 410, 422, 503)},
)
async def photo_embedding(request: Request, image_id: PathKey) -> Response:
    """Its embedding as little-endian float16, C×h×w; made ahead for photos that are next."""
    try:
        session = await project_of(request).session(studio_of(request), image_id)
    except ImageError as error:
        raise HTTPException(410, str(error)) from error
    return as_halves(session)


# --- tasks ------------------------------------------------------------------------------------------------------------


@router.post("/api/tasks/next", responses=_REFUSALS)
async def next_task(request: Request, body: NextTask) -> NextAnswer:
    """Lease the next photo to a person. Who holds one gets it again, but for those in `besides`."""
    served = project_of(request)

    def take() -> tuple[Task | None, list[int]]:
        lease = leases.next_task(served.store, served.id, body.worker, body.kind, besides=body.besides)
        if lease is None:
            return None, []
        soon = desk.upcoming(served.store, served.id, body.worker, body.kind, limit=2)
        return _task(served, lease), [lease.image_id, *soon]

    task, soon = await run_in_threadpool(take)
    served.prepare(studio_of(request), soon)
    return NextAnswer(task=task)


@router.post("/api/tasks/{task_id}/renew", status_code=204, responses=_REFUSALS)
def renew(request: Request, task_id: PathKey, body: Hold) -> None:
    """Work goes on. 409 where the task is somebody else's by now."""
    served = project_of(request)
    leases.renew(served.store, _lease(served, task_id, body))


@router.post("/api/tasks/{task_id}/release", status_code=204, responses=_REFUSALS)
def release(request: Request, task_id: PathKey, body: Hold) -> None:
    """Give a task back undone."""
    served = project_of(request)
    leases.release(served.store, _lease(served, task_id, body))


@router.post("/api/tasks/{task_id}/masks", responses=_REFUSALS)
def save_mask(request: Request, task_id: PathKey, body: SaveMask) -> Saved:
    """Save a mask, once under one save key however often it is sent; the lease goes on."""
    served = project_of(request)
    new = _new_mask(body.mask, body.worker, "proposed" if served.is_reviewed else "accepted", body.replaces)
    (mask_id,) = leases.save_masks(served.store, _lease(served, task_id, body), [new])
    return Saved(id=mask_id)


@router.post("/api/tasks/{task_id}/finish", status_code=204, responses=_REFUSALS)
def finish(request: Request, task_id: PathKey, body: Finish) -> None:
    """The photo is done, or skipped."""
    served = project_of(request)
    lease = _lease(served, task_id, body)
    review = served.is_reviewed and lease.kind == "annotate"
    leases.finish_task(served.store, lease, skip=body.skip, seconds=body.seconds, review=review)


# --- second looks -----------------------------------------------------------------------------------------------------


@router.post("/api/masks/{mask_id}/reviews", responses=_REFUSALS)
def review(request: Request, mask_id: PathKey, body: NewReview) -> Reviewed:
    """Accept, edit or reject the current version of a mask. 409 where it was changed meanwhile."""
    served = project_of(request)
    desk.mask_in(served.store, served.id, mask_id)
    edited = None if body.edited is None else _new_mask(body.edited, body.reviewer, "accepted", None)
    review_id = desk.review_once(
        served.store, mask_id, body.action, body.reviewer, edited=edited, seconds=body.seconds, note=body.note
    )
    return Reviewed(id=review_id, mask_id=_current(served, mask_id))


@router.post("/api/masks/{mask_id}/reviews/{review_id}/undo", responses=_REFUSALS)
def undo(request: Request, mask_id: PathKey, review_id: PathKey, body: Undo) -> Reviewed:
    """Take back a review of this mask, the latest one."""
    served = project_of(request)
    _, looks = desk.family(served.store, served.id, mask_id)
    if review_id not in [look["id"] for look in looks]:
        raise HTTPException(404, f"mask {mask_id} has no review {review_id}.")
    return Reviewed(id=desk.undo_once(served.store, review_id, body.reviewer), mask_id=_current(served, mask_id))


@router.get("/api/masks/{mask_id}/history", responses=problem_responses(401, 403, 404, 422, 503))
def history(request: Request, mask_id: PathKey) -> History:
    """Every version and every review of a mask, oldest first."""
    served = project_of(request)
    versions, looks = desk.family(served.store, served.id, mask_id)
    numbers = {version.id: version.version for version in versions}
    made_by_review = {look["new_mask_id"] for look in looks}
    events = [
        Event(what="saved", who=v.author, at=v.created_at, mask_id=v.id, version=v.version, seconds=v.seconds)
        for v in versions
        if v.id not in made_by_review
    ]
    for look in looks:
        mask = look["new_mask_id"] or look["mask_id"]
        events.append(
            Event(
                what=look["action"],
                who=look["reviewer"],
                at=look["created_at"],
                mask_id=mask,
                version=numbers[mask],
                seconds=look["seconds"],
                note=look["note"],
            )
        )
    return History(events=sorted(events, key=lambda event: event.at))


def _task(served: Project, lease: Lease) -> Task:
    image = served.image(lease.image_id)
    assert image.hw is not None  # photos that cannot be read have no tasks
    masks = [mask for mask in served.store.masks([image.id]) if mask.state != "rejected"]
    return Task(
        id=lease.task_id,
        token=lease.token,
        kind=lease.kind,  # type: ignore[arg-type]
        stage=lease.stage,
        image_id=image.id,
        file_name=PurePath(image.place).name,
        width=image.hw[1],
        height=image.hw[0],
        lease_seconds=lease.seconds,
        masks=[to_wire(mask) for mask in masks],
    )


def _lease(served: Project, task_id: int, hold: Hold) -> Lease:
    return desk.lease_of(served.store, served.id, task_id, hold.worker, hold.token)


def _current(served: Project, mask_id: int) -> int:
    return desk.family(served.store, served.id, mask_id)[0][-1].id


def _new_mask(drawn: Drawn, author: str, state: str, replaces: int | None) -> NewMask:
    return NewMask(
        drawn.segmentation.model_dump(),
        author,
        state=state,
        prompts=drawn.prompts.model_dump(exclude_defaults=True) or None,
        predicted_iou=drawn.predicted_iou,
        stability_score=drawn.stability_score,
        seconds=drawn.seconds,
        label=drawn.label,
        replaces=replaces,
        save_key=drawn.save_key,
    )
