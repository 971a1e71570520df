"""Proves that a download ends with exactly the right file, or with a reason and nothing under the final name.

A real HTTP server on the loopback misbehaves in one way per test. The full disk is real as well: `/dev/full`
gives ENOSPC from the kernel, a file-size limit (RLIMIT_FSIZE) in a child process gives EFBIG half way.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anymask.cli.models import app
from anymask.core.errors import CheckpointError, DownloadError, OptionError
from anymask.weights import catalog, pull
from anymask.weights.lock import locked

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "sam_vit_b_01ec64.pth"


@dataclass
class Site:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    cut_after: list[int | None] = field(default_factory=list)  # per request: bytes sent before it hangs up
    always_cut: int | None = None
    status: list[int] = field(default_factory=list)  # per request: an error instead of the file
    chunked: bool = False
    redirect: str = ""
    delay_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(dict(self.headers))
        if site.redirect:
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.end_headers()
            return
        if site.status and (status := site.status.pop(0)) != 200:
            self.send_error(status)
            return
        threading.Event().wait(site.delay_s)
        start, code = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and site.ranges and self.headers.get("If-Range", site.etag) == site.etag:
            start, code = int(asked[1]), 206
        self.send_response(code)
        if site.etag:
            self.send_header("ETag", site.etag)
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        if not site.chunked:
            self.send_header("Content-Length", str(len(site.content) - start))
        self.end_headers()
        cut = site.cut_after.pop(0) if site.cut_after else site.always_cut
        self.wfile.write(site.content[start:][:cut])

    def log_message(self, *args: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of these tests


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = QuietServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def small_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """vit_b becomes a 1 MiB file, waits are short, and nothing outside tmp_path is touched."""
    small = replace(catalog.CATALOG["vit_b"], sha256=SHA256, num_bytes=len(CONTENT))
    monkeypatch.setitem(catalog.CATALOG, "vit_b", small)
    monkeypatch.setattr(pull, "BACK_OFF_S", 0.001)
    monkeypatch.setattr(pull, "TIMEOUT_S", 5.0)
    monkeypatch.setenv("ANYMASK_HOME", str(tmp_path / "home"))
    for name in ("ANYMASK_OFFLINE", "ANYMASK_MODEL_BASE_URL", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models" / NAME


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def test_a_plain_download(site: Site, target: Path) -> None:
    assert pull.pull("vit_b", progress=False, base_url=site.url + "/") == target
    assert target.read_bytes() == CONTENT
    assert sorted(p.name for p in target.parent.iterdir()) == [NAME, NAME + ".lock"]


def test_a_second_pull_asks_nobody(site: Site, target: Path) -> None:
    pull.pull("vit_b", progress=False, base_url=site.url)
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert len(site.asked) == 1


def test_a_damaged_file_is_fetched_again(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x" + CONTENT[1:])
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT


def test_the_mirror_variable_and_the_progress_bar(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANYMASK_MODEL_BASE_URL", site.url)
    pull.pull("vit_b")
    assert target.read_bytes() == CONTENT
    err = capsys.readouterr().err
    assert NAME in err
    assert "1.0/1.0 MB" in err


def test_a_broken_connection_is_resumed(site: Site, target: Path) -> None:
    site.cut_after = [len(CONTENT) // 2]
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert site.asked[1]["Range"] == f"bytes={len(CONTENT) // 2}-"
    assert site.asked[1]["If-Range"] == '"one"'


def test_another_run_resumes_the_part(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(CONTENT[:1000])
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert site.asked[0]["Range"] == "bytes=1000-"


def test_many_breaks_are_fine_while_bytes_arrive(site: Site, target: Path) -> None:
    site.cut_after = [100_000] * (2 * pull.ATTEMPTS)
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert len(site.asked) > pull.ATTEMPTS


def test_a_server_that_ignores_ranges(site: Site, target: Path) -> None:
    site.ranges = False
    site.cut_after = [len(CONTENT) // 2]
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert "Range" in site.asked[1]


def test_content_that_changed_in_between_starts_over(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(b"old" * 1000)
    part_of(target).with_name(NAME + ".part.etag").write_text('"zero"')
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert site.asked[0]["If-Range"] == '"zero"'


def test_a_part_that_is_too_long_starts_over(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(CONTENT + b"more")
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(CONTENT)
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert site.asked == []


def test_range_not_satisfiable_starts_over(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(b"?" * 10)
    site.status = [416]
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert "Range" not in site.asked[1]


def test_a_wrong_hash(site: Site, target: Path) -> None:
    site.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match="expected SHA-256") as caught:
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(site.content).hexdigest() in str(caught.value)
    assert not target.exists()
    assert not part_of(target).exists()


def test_a_file_of_another_size_is_refused_before_it_is_fetched(site: Site, target: Path) -> None:
    site.content = b"<html>please log in</html>"
    with pytest.raises(DownloadError, match=r"expected 1,048,576 bytes, the server offers 26"):
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert not target.exists()


def test_a_body_without_length_that_is_too_long(site: Site, target: Path) -> None:
    site.chunked, site.content = True, CONTENT * 2
    with pytest.raises(DownloadError, match="sent more than the expected 1,048,576 bytes"):
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert not part_of(target).exists()


def test_a_file_that_is_always_cut_short(site: Site, target: Path) -> None:
    site.ranges, site.always_cut = False, 1000
    with pytest.raises(DownloadError, match=r"ended after 1,000 of 1,048,576 bytes \(5 attempts\)") as caught:
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert str(target) in str(caught.value)  # where to copy it by hand
    assert not target.exists()
    assert len(site.asked) == pull.ATTEMPTS


def test_a_busy_server_is_asked_again(site: Site, target: Path) -> None:
    site.status = [503, 429]
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT


def test_a_missing_file_is_final(site: Site) -> None:
    site.status = [404]
    with pytest.raises(DownloadError, match=r"answered 404 .*ANYMASK_MODEL_BASE_URL"):
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert len(site.asked) == 1


def test_nobody_listens(site: Site, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"Check the network"):
        pull.pull("vit_b", progress=False, base_url="http://127.0.0.1:1")


@pytest.mark.parametrize("base", ["file:///etc", "ftp://127.0.0.1/x", "sam", "http://"])
def test_other_schemes_are_refused(base: str) -> None:
    with pytest.raises(DownloadError, match="expected an http:// or https:// address"):
        pull.pull("vit_b", progress=False, base_url=base)


def test_a_redirect_to_a_local_file_is_refused(site: Site, target: Path) -> None:
    site.redirect = "file:///etc/hostname"
    with pytest.raises(DownloadError):
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert not target.exists()


def test_offline(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_OFFLINE", "1")
    with pytest.raises(DownloadError, match="ANYMASK_OFFLINE forbids downloads") as caught:
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert str(target) in str(caught.value)
    assert site.asked == []
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert pull.pull("vit_b", progress=False, base_url=site.url) == target


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"No space left on device.*ANYMASK_HOME"):
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert not target.exists()


def test_too_little_space_is_told_before_the_first_byte(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(pull.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(DownloadError, match=r"too full: 1 MB are needed, 0 MB are free"):
        pull.pull("vit_b", progress=False, base_url=site.url)
    assert not part_of(target).exists()


def test_a_home_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"could not write .*ANYMASK_HOME"):
        pull.pull("vit_b", progress=False, base_url=site.url, home=tmp_path / "file")


CHILD = """
import sys
from pathlib import Path
from anymask.weights import pull
if sys.platform != "win32" and int(sys.argv[4]):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    pull.download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], num_bytes=1 << 20, progress=True)
except pull.DownloadError as error:
    sys.exit(str(error))
"""


def start_child(site: Site, target: Path, file_limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, f"{site.url}/{NAME}", str(target), SHA256, str(file_limit)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_the_disk_fills_half_way_and_the_next_run_goes_on(site: Site, target: Path) -> None:
    child = start_child(site, target, file_limit=300_000)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "File too large" in err
    assert "the next run goes on from there" in err
    assert part_of(target).stat().st_size == 300_000
    pull.pull("vit_b", progress=False, base_url=site.url)
    assert target.read_bytes() == CONTENT
    assert site.asked[-1]["Range"] == "bytes=300000-"


def test_two_processes_at_once_fetch_it_once(site: Site, target: Path) -> None:
    target.parent.mkdir(parents=True)
    with locked(target):  # both start while the lock is held, so both wait for it
        children = [start_child(site, target) for _ in range(2)]
        for child in children:
            assert child.stderr is not None
            assert "waiting for it" in child.stderr.readline()
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    assert target.read_bytes() == CONTENT
    assert len(site.asked) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_lock_ends_with_its_holder_though_a_forked_child_lives_on(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
from anymask.weights.lock import locked
path = pathlib.Path(sys.argv[1])
with locked(path):
    child = os.fork()
    if child == 0:
        signal.pause()
with locked(path, lambda: print("waits", flush=True)):
    print("again", flush=True)
os.kill(child, signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "again\n", done.stderr


def test_the_embedded_model_needs_no_download(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    present = replace(catalog.CATALOG["lite"], file_name="catalog.py")  # any file of the package
    monkeypatch.setitem(catalog.CATALOG, "lite", present)
    assert pull.pull("lite", base_url=site.url).name == "catalog.py"
    monkeypatch.setitem(catalog.CATALOG, "lite", replace(present, file_name="none.safetensors"))
    with pytest.raises(CheckpointError, match="Reinstall it"):
        pull.pull("lite", base_url=site.url)
    assert site.asked == []


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"mean 'vit_b'\? Known: lite, vit_b, vit_l, vit_h, default"):
        pull.pull("vitb")


def test_the_catalogue_is_complete() -> None:
    for entry in catalog.CATALOG.values():
        if not entry.embedded:
            assert re.fullmatch("[0-9a-f]{64}", entry.sha256 or "")
            assert catalog.model_url(entry).startswith(f"{catalog.OFFICIAL_BASE_URL}/sam_vit_")
    assert catalog.find_entry("default").name == "vit_h"


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("ANYMASK_HOME")
    assert catalog.cache_folder() == Path("/cache/anymask/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalog.cache_folder() == Path.home() / ".cache/anymask/models"
    monkeypatch.setenv("ANYMASK_HOME", "/home/me/sam")
    assert catalog.cache_folder() == Path("/home/me/sam/models")


def test_listing_needs_no_torch() -> None:
    code = "import sys, anymask.weights.pull, anymask.cli.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cli_pull_and_list(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_MODEL_BASE_URL", site.url)
    run = CliRunner().invoke
    before = run(app, ["list"], env={"COLUMNS": "200"})
    assert re.search(r"vit_b .* 1 MB .* no ", before.output)
    result = run(app, ["pull", "vit_b", "--quiet"])
    assert result.exit_code == 0, result.output
    assert str(target) in result.output.replace("\n", "")
    assert re.search(r"vit_b .* 1 MB .* yes ", run(app, ["list"], env={"COLUMNS": "200"}).output)


def test_cli_pull_checks_all_names_first(site: Site) -> None:
    result = CliRunner().invoke(app, ["pull", "vit_b", "vit_x"])
    assert isinstance(result.exception, OptionError)
    assert site.asked == []


@pytest.mark.parametrize("command", ["list", "pull", "info", "convert"])
def test_every_help_has_an_example(command: str) -> None:
    assert f"Example: anymask models {command}" in CliRunner().invoke(app, [command, "--help"]).output
