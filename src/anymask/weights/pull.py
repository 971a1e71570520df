"""Downloads that end with the right file or with a reason: resumed, checked, and moved into place at once."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anymask.core.errors import DownloadError
from anymask.core.files import sha256_of
from anymask.weights.catalog import find_entry, is_offline, local_path, model_url, require_local
from anymask.weights.lock import locked

TIMEOUT_S = 30.0
ATTEMPTS = 5  # in a row without a new byte
BACK_OFF_S = 0.5  # before the second attempt; doubles each time
CHUNK_BYTES = 1 << 18
DISK_MARGIN_BYTES = 16 << 20
TRANSIENT_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)

Report = Callable[[int, int | None], None]


class _TryAgainError(Exception):
    """The attempt failed in a way that another one may not."""


def pull(
    name: str, *, home: Path | str | None = None, progress: bool = True, base_url: str | None = None
) -> Path:
    """Download a named model unless it is already here, and return its path; lite is part of the package.

    home: cache folder, default ANYMASK_HOME. progress: a bar on stderr. base_url: a mirror, default
    ANYMASK_MODEL_BASE_URL. DownloadError where the network, the disk, the hash or ANYMASK_OFFLINE says no.
    """
    entry = find_entry(name)
    if entry.embedded:
        return require_local(name)
    assert entry.sha256 is not None
    target = local_path(entry, home)
    if is_offline():
        if target.is_file():
            return target
        raise DownloadError(
            f"{entry.name} is not on this machine and ANYMASK_OFFLINE forbids downloads. Unset "
            f"ANYMASK_OFFLINE, or copy {entry.file_name} to {target} by hand."
        )
    url = model_url(entry, base_url)
    return download(url, target, sha256=entry.sha256, num_bytes=entry.num_bytes, progress=progress)


def download(
    url: str, target: Path, *, sha256: str, num_bytes: int | None = None, progress: bool = True
) -> Path:
    """Fetch an http(s) URL into `target`, resuming `<target>.part`, and check its SHA-256 before it gets its
    name.

    num_bytes: the exact size where known. A target that already has the hash is left alone. Several
    processes may ask for the same target: one downloads, the others wait and find it done. Errors:
    DownloadError.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"expected an http:// or https:// address, got {url!r}.")

    def say_waiting() -> None:
        if progress:
            print(f"another process is downloading {target.name}; waiting for it", file=sys.stderr)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target, say_waiting):
            if target.is_file() and sha256_of(target) == sha256:
                return target
            part = target.with_name(target.name + ".part")
            with _progress_bar(target.name, progress) as report:
                _fetch(url, part, target, num_bytes, report)
            got = sha256_of(part)
            if got != sha256:
                _discard(part)
                raise DownloadError(
                    f"{url} gave a wrong file and it was deleted: expected SHA-256 {sha256}, got {got}. "
                    "Try again; if it happens twice, the server or a proxy changes the file."
                )
            _move_into_place(part, target)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"could not write {target}: {error.strerror or error}. Check the folder, or set ANYMASK_HOME to "
            "another."
        ) from error
    return target


def _fetch(url: str, part: Path, target: Path, num_bytes: int | None, report: Report) -> None:
    """Attempts until `part` is complete; gives up after ATTEMPTS in a row that brought nothing new."""
    most_bytes, failures = _size(part), 0
    while True:
        try:
            return _attempt(url, part, num_bytes, report)
        except _TryAgainError as error:
            have = _size(part)
            failures = 1 if have > most_bytes else failures + 1
            most_bytes = max(most_bytes, have)
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"could not download {url}: {error} ({ATTEMPTS} attempts). Check the network or the "
                    f"proxy settings and run it again, it goes on at byte {have:,}; or copy the file to "
                    f"{target} by hand."
                ) from error
            time.sleep(BACK_OFF_S * 2 ** (failures - 1))


def _attempt(url: str, part: Path, num_bytes: int | None, report: Report) -> None:
    """One request from where `part` ends."""
    start = _size(part)
    if num_bytes is not None and start > num_bytes:
        _discard(part)
        start = 0
    if start and start == num_bytes:
        return
    with _open(url, part, start) as response:
        if response.status != 206:
            start = 0  # the server sends the whole file: it ignores ranges, or the file has changed
        total = _announced_size(response, start)
        if num_bytes is not None and total not in (None, num_bytes):
            raise DownloadError(
                f"{url} is not the expected file: expected {num_bytes:,} bytes, the server offers {total:,}. "
                "A login page or another version may be in the way."
            )
        expected = total if total is not None else num_bytes
        if expected is not None:
            _check_disk(part.parent, expected - start)
        _remember_validator(part, response)
        size = _copy(response, part, start, expected, report)
    if expected is not None and size < expected:
        raise _TryAgainError(f"the connection ended after {size:,} of {expected:,} bytes")
    if expected is not None and size > expected:
        _discard(part)
        raise DownloadError(f"{url} sent more than the expected {expected:,} bytes; nothing was kept.")


def _open(url: str, part: Path, start: int) -> Any:
    """The open response; raises _TryAgainError or DownloadError."""
    headers = {"User-Agent": "anymask", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        validator = _validator_path(part)
        if validator.is_file():
            headers["If-Range"] = validator.read_text()
    opener = urllib.request.OpenerDirector()  # http and https only, also after a redirect
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answered {error.code} {error.reason}"
        if error.code not in TRANSIENT_STATUS:
            raise DownloadError(
                f"could not download {url}: {said}. Check the address (ANYMASK_MODEL_BASE_URL sets a mirror)."
            ) from error
        if error.code == 416:
            _discard(part)  # what we hold does not belong to the server's file
        raise _TryAgainError(said) from error
    except urllib.error.URLError as error:
        raise _TryAgainError(str(error.reason)) from error
    except (http.client.HTTPException, OSError) as error:
        raise _TryAgainError(f"{type(error).__name__}: {error}") from error


def _announced_size(response: Any, start: int) -> int | None:
    """Bytes of the whole file as the server says, None where it does not."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != start:
            raise DownloadError(
                f"{response.url} resumed at the wrong place: asked for bytes from {start:,}, got "
                f"{response.headers.get('Content-Range')!r}. Delete the .part file and try again."
            )
        return None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _copy(response: Any, part: Path, start: int, expected: int | None, report: Report) -> int:
    """Append the body at byte `start` of `part`; returns the size reached."""
    size = start
    with part.open("ab" if start else "wb", buffering=0) as file:  # unbuffered: full disks show
        report(size, expected)
        while expected is None or size <= expected:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (http.client.HTTPException, OSError) as error:
                raise _TryAgainError(f"the connection broke after {size:,} bytes ({error})") from error
            if not chunk:
                break
            _write(file, chunk, part, size)
            size += len(chunk)
            report(size, expected)
        os.fsync(file.fileno())
    return size


def _write(file: Any, chunk: bytes, part: Path, size: int) -> None:
    """All of `chunk`, or DownloadError where the disk refuses."""
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise DownloadError(
            f"could not write {part} beyond byte {size:,}: {error.strerror}. Free some space, or set "
            "ANYMASK_HOME to a folder on another disk; what has arrived is kept and the next run goes on "
            "from there."
        ) from error


def _check_disk(folder: Path, needed_bytes: int) -> None:
    """DownloadError where `needed_bytes` more do not fit."""
    free = shutil.disk_usage(folder).free
    if needed_bytes + DISK_MARGIN_BYTES > free:
        raise DownloadError(
            f"the disk of {folder} is too full: {needed_bytes / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} "
            "MB are free. Free some space, or set ANYMASK_HOME to a folder on another disk."
        )


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _remember_validator(part: Path, response: Any) -> None:
    """Store the strong ETag or the date, so that only the same file is resumed (RFC 9110 §13.1.5)."""
    etag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    validator = date if not etag or etag.startswith("W/") else etag
    if validator:
        _validator_path(part).write_text(validator)
    else:
        _validator_path(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_path(part).unlink(missing_ok=True)


def _move_into_place(part: Path, target: Path) -> None:
    """Rename the checked file, and make the rename survive a power cut where the system allows it."""
    part.replace(target)
    _validator_path(part).unlink(missing_ok=True)
    if sys.platform != "win32":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _progress_bar(label: str, enabled: bool) -> Iterator[Report]:
    """A bar on stderr with size, rate and time left."""
    from rich import progress as rich_progress
    from rich.console import Console

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
