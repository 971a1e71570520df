"""People rate masks and do not know whose they are. What a method is called never leaves the server."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request, Response
from pydantic import Field

from anymask.core.rle import to_bbox_xywh
from anymask.evaluate.human_study import RatingStudy
from anymask.server.project import for_browser
from anymask.server.schemas import Rle, Wire, problem_responses
from anymask.server.schemas_project import Seconds, Worker

router = APIRouter(tags=["ratings"])
_REFUSALS = problem_responses(400, 401, 403, 404, 413, 422)


class StudyInfo(Wire):
    """How far the study is."""

    jobs: int
    rated: int


class NextJob(Wire):
    """Who asks for a mask to rate."""

    rater: Worker


class RatingJob(Wire):
    """A mask to rate. key: tells nothing of who made it. point: the click that it answers; bbox: x, y, w, h."""

    key: str
    photo: int
    segmentation: Rle
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]
    point: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class JobAnswer(Wire):
    """A mask, or null where this person has rated all that is wanted."""

    job: RatingJob | None


class Rating(Wire):
    """From 1 (no object) to 10 (perfect to the pixel)."""

    rater: Worker
    job: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    rating: Annotated[int, Field(ge=1, le=10)]
    seconds: Seconds | None = None


def study_of(request: Request) -> RatingStudy:
    """The study that is served; 404 where there is none."""
    study: RatingStudy | None = request.app.state.study
    if study is None:
        raise HTTPException(404, "this server has no rating study; start it with `anymask serve --ratings FOLDER`.")
    return study


@router.get("/api/study", responses=problem_responses(401, 403, 404))
def about(request: Request) -> StudyInfo:
    """How many masks there are, and how many have all ratings that are wanted."""
    study = study_of(request)
    return StudyInfo(jobs=len(study.jobs), rated=study.num_rated)


@router.post("/api/study/next", responses=_REFUSALS)
def next_job(request: Request, body: NextJob) -> JobAnswer:
    """A mask to rate, in an order of this person's own."""
    job = study_of(request).next_job(body.rater)
    if job is None:
        return JobAnswer(job=None)
    segmentation = Rle(size=list(job.rle["size"]), counts=job.rle["counts"])
    point = None if job.point_xy is None else list(job.point_xy)
    bbox = [float(v) for v in to_bbox_xywh(job.rle)]
    return JobAnswer(job=RatingJob(key=job.key, photo=job.photo, segmentation=segmentation, bbox=bbox, point=point))


@router.get(
    "/api/study/photos/{number}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}}, **problem_responses(401, 403, 404, 410, 422)},
)
def photo(request: Request, number: Annotated[int, Path(ge=0, le=2**31)]) -> Response:
    """A photo by its number in the study."""
    study = study_of(request)
    if number >= len(study.photos):
        raise HTTPException(404, f"the study has no photo {number}.")
    try:
        encoded, media_type = for_browser(FilePath(study.photos[number]).read_bytes())
    except OSError as error:
        raise HTTPException(410, f"{FilePath(study.photos[number]).name} is gone. Put it back.") from error
    return Response(encoded, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


@router.post("/api/study/ratings", status_code=204, responses=_REFUSALS)
def rate(request: Request, body: Rating) -> None:
    """Keep a rating; one that is given again counts once, the last."""
    study_of(request).rate(body.job, body.rater, body.rating, body.seconds)
