"""`create_app`: the server as an ASGI application, without any state of the module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from anymask import __version__
from anymask.core.errors import ImageError, InputError, MissingExtraError, NotFoundError, StateError, StoreError
from anymask.core.types import Segmenter
from anymask.server import label_studio, routes_about, routes_masks, routes_photos
from anymask.server.guard import Guard
from anymask.server.lane import BusyError
from anymask.server.metrics import Measured
from anymask.server.pages import HOW_TO_BUILD, STATIC, has_app
from anymask.server.sessions import UnknownPhotoError
from anymask.server.settings import Settings
from anymask.server.studio import BrowserModel, Studio
from anymask.text.choice import TextChoice

if TYPE_CHECKING:
    from anymask.evaluate.human_study import RatingStudy
    from anymask.server.model_switch import Load, ModelSwitch
    from anymask.server.project import Project


def create_app(
    segmenter: Segmenter,
    settings: Settings | None = None,
    *,
    name: str = "lite",
    browser: BrowserModel | None = None,
    project: Project | None = None,
    study: RatingStudy | None = None,
    load_version: Load | None = None,
    text: TextChoice | None = None,
    static: Path = STATIC,
) -> FastAPI:
    """The app at `/`, the API at `/api`, its description at `/openapi.json`.

    segmenter: the model, used by one thread at a time. name: its name. browser: the model's graphs for the page.
    project: photos that people annotate and review. study: masks that they rate. load_version: makes a version of the
    project's model; with it the server takes over whichever is promoted. text: what ranks masks by a phrase,
    the offline default where none is given. static: the built app.
    """
    settings = settings or Settings()
    studio = Studio(segmenter, settings, name, browser, text)

    switch = _switch(studio, project, load_version)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if switch is not None:
            switch.start()
        yield
        if switch is not None:
            switch.stop()
        await asyncio.to_thread(studio.stop)

    app = FastAPI(
        title="anymask",
        version=__version__,
        description="Segment Anything on your own machine.",
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,
    )
    app.state.studio, app.state.project, app.state.study = studio, project, study
    app.add_middleware(Measured, metrics=studio.metrics)
    app.add_middleware(Guard, settings=settings)
    for router in routers():
        app.include_router(router)
    _add_problems(app)
    _add_pages(app, static)
    return app


def _switch(studio: Studio, project: Project | None, load: Load | None) -> ModelSwitch | None:
    if project is None or load is None:
        return None
    from anymask.engine.models import ModelWatch
    from anymask.server.model_switch import ModelSwitch

    return ModelSwitch(studio, ModelWatch(project.store, project.id, project.serving_id), load)


def routers() -> list[APIRouter]:
    """All routes; those of a store where its extra is installed."""
    found = [routes_about.router, routes_photos.router, routes_masks.router, label_studio.router]
    if find_spec("sqlalchemy"):
        from anymask.server import routes_project, routes_ratings

        found += [routes_project.router, routes_ratings.router]
    return found


def _add_problems(app: FastAPI) -> None:
    """Errors as `{"detail": reason}` with the status that fits."""

    def problem(status: int, reason: str, **headers: str) -> JSONResponse:
        return JSONResponse({"detail": reason}, status, headers=headers or None)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return problem(503, str(error), **{"retry-after": str(error.retry_after_s)})

    @app.exception_handler(StateError)
    async def too_late(request: Request, error: StateError) -> Response:
        return problem(404 if isinstance(error, NotFoundError) else 409, str(error))

    @app.exception_handler(MissingExtraError)
    async def not_installed(request: Request, error: MissingExtraError) -> Response:
        return problem(501, str(error))

    @app.exception_handler(StoreError)
    async def store_fails(request: Request, error: StoreError) -> Response:
        return problem(503, str(error), **{"retry-after": "5"})

    @app.exception_handler(InputError)
    async def cannot_use(request: Request, error: InputError) -> Response:
        if isinstance(error, UnknownPhotoError):
            return problem(404, str(error))
        return problem(415 if isinstance(error, ImageError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:5]]
        return problem(422, "; ".join(faults))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), **dict(error.headers or {}))


def _add_pages(app: FastAPI, static: Path) -> None:
    if has_app(static):
        app.mount("/", _App(directory=static, html=True), name="app")
        return

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    async def how_to_build() -> str:
        return HOW_TO_BUILD


class _App(StaticFiles):
    """Files with a hash in the name are kept by the browser; the page itself is asked for each time."""

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        hashed = "assets" in Path(full_path).parts
        response.headers["cache-control"] = "private, max-age=31536000, immutable" if hashed else "no-cache"
        return response
