"""`anymask serve`: the browser app and its API on this machine."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from anymask.core.errors import MissingExtraError, OptionError
from anymask.text.choice import OFFLINE, TEXT_MODEL


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. 127.0.0.1 is this machine alone; others need the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8765,
    model: Annotated[
        str | None,
        typer.Option(help="`lite` (inside the package), `vit_b`, `vit_l`, `vit_h`; else `lite`, or a store's version."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of that model; any format.")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `mps`.")] = "auto",
    precision: Annotated[str, typer.Option(help="`auto`, `fp32` or `bf16`; auto: bf16 where native.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="`torch`, `onnx` or `openvino`; --checkpoint may be a folder of `anymask export`.")
    ] = "torch",
    token: Annotated[
        str | None, typer.Option(help="Ask this of every client; made and printed for other hosts.")
    ] = None,
    cache_mb: Annotated[int, typer.Option(help="Memory for embeddings; 2 to 4 MB a photo.")] = 512,
    max_megapixels: Annotated[int, typer.Option(help="Larger uploads are refused before they are decoded.")] = 64,
    max_upload_mb: Annotated[int, typer.Option(help="The same in bytes of the file.")] = 64,
    text_model: Annotated[str, typer.Option(help=TEXT_MODEL)] = "offline",
    label_studio: Annotated[
        str | None, typer.Option(help="Address of a Label Studio whose photos may be fetched, for /label-studio.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="DB", help="People annotate and review photos of this store in the app.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Which project of the store.")] = None,
    review: Annotated[bool, typer.Option(help="Finished photos go to somebody else for a second look.")] = True,
    ratings: Annotated[
        Path | None, typer.Option(metavar="DIR", help="People rate the masks of this study; see `anymask ratings`.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the app in the browser.")] = False,
) -> None:
    """Serve the browser app and its API.

    Listens on this machine alone, because whoever can reach it can use its processor and memory. With another --host a
    token is made and printed in the address to open; nobody gets in without it.

    **Examples**

    `anymask serve`

    `anymask serve --model vit_b --port 9000`

    `anymask serve --model vit_b --runtime openvino`

    `anymask serve --store masks.db`   (takes over each model that `anymask engine retrain` promotes)

    `anymask serve --host 0.0.0.0`
    """
    try:
        import uvicorn

        from anymask.server.app import create_app
    except ImportError as error:
        raise MissingExtraError("the server needs: pip install 'anymask[server]'") from error
    from anymask.cli.predict import load_predictor
    from anymask.server.browser_model import browser_model
    from anymask.server.pages import has_app
    from anymask.server.settings import Settings, is_loopback
    from anymask.server.studio import BrowserModel
    from anymask.text.choice import TextChoice

    if not 0 <= port <= 65535:
        raise OptionError(f"--port must be 0 … 65535, got {port}.")
    if token is not None and len(token) < 16:
        raise OptionError("--token must have 16 characters or more; leave it out and one is made.")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    settings = Settings(
        host=host,
        port=port,
        token=token,
        cache_bytes=cache_mb * 2**20,
        upload_bytes=max_upload_mb * 2**20,
        upload_pixels=max_megapixels * 1_000_000,
        label_studio_url=label_studio,
        label_studio_key=os.environ.get("LABEL_STUDIO_API_KEY"),
    )
    if store is None and project is not None:
        raise OptionError("--project names a project of a store; name the store too: --store masks.db.")
    served = _open_project(store, project, review) if store is not None else None
    follows = served is not None and model is None and checkpoint is None and runtime == "torch"
    version = None
    if served is not None and follows:
        from anymask.engine.models import serving_version

        version = serving_version(served.store, served.id)
        served = replace(served, serving_id=version.id if version else None)
    model = model or "lite"
    text = TextChoice(text_model)
    if text_model != OFFLINE:
        text.embedder  # noqa: B018 — what is wrong with it is said now, not to the first who asks
    study = None
    if ratings is not None:
        from anymask.evaluate.human_study import open_study

        study = open_study(ratings)
    listening = _listen(host, port)

    def load_version(version: Any) -> Any:
        from anymask.engine.models import load_version
        from anymask.weights.recognise import recognise

        segmenter = load_version(version, device, precision)
        kind, _ = recognise(segmenter.sam.state_dict())
        return segmenter, browser_model(segmenter.sam, kind) if has_app() else BrowserModel()

    if has_app():
        print("anymask: preparing the model for the browser (the first time takes some seconds) …", file=sys.stderr)
    else:
        print("anymask: the app is not built, only the API is served; `make web` builds it.", file=sys.stderr)
    if version is not None:
        segmenter, files = load_version(version)
        print(f"anymask: version {version.name} of the project serves, until another is promoted.", file=sys.stderr)
    else:
        predictor = load_predictor(model, checkpoint, device, precision, 0, 0, runtime)
        segmenter, files = predictor.segmenter, BrowserModel()
        if has_app():
            files = browser_model(predictor.model or _weights(model, checkpoint, segmenter), model)
    app = create_app(
        segmenter,
        settings,
        name=model if version is None else version.name,
        browser=files,
        project=served,
        study=study,
        load_version=load_version if follows else None,
        text=text,
    )
    address = _address(host, listening.getsockname()[1], token)
    print(f"anymask: open {address}   (Ctrl+C stops)", flush=True)
    if browser:
        import webbrowser

        webbrowser.open(address)
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=5, limit_concurrency=512, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listening])


def _open_project(place: str, name: str | None, review: bool) -> Any:
    """A project of a store, before the model is loaded: a wrong name is told at once."""
    try:
        from anymask.engine.store import open_store
        from anymask.server.project import Project
    except ImportError as error:
        raise MissingExtraError("a store needs: pip install 'anymask[engine]'") from error
    store = open_store(place)
    try:
        project_id = store.project_id(name)
        return Project(store, project_id, name or store.project_names()[0], review)
    except BaseException:
        store.close()
        raise


def _weights(model: str, checkpoint: Path | None, segmenter: Any) -> Any:
    """The model that an exported one was made of: the page needs its decoder. OptionError where it is another."""
    from anymask.export.artefacts import weights_sha256
    from anymask.weights.load import load_model

    is_folder = checkpoint is not None and checkpoint.is_dir()
    sam = load_model(model, checkpoint=None if is_folder else checkpoint)
    if segmenter.manifest.weights_sha256 != weights_sha256(sam):
        raise OptionError(
            f"{checkpoint} was exported from other weights than those of {model}, and the page needs both alike. Give "
            "the weights themselves to --checkpoint: they are exported once, and kept."
        )
    return sam


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, before the model is loaded: a taken port is told at once."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        raise OptionError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port, or 0 for a free one."
        ) from error
    return listening


def _address(host: str, port: int, token: str | None) -> str:
    """What to open: a wildcard host is this machine by name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
