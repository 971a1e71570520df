"""Proves: `anymask serve` as a process — it prints where it is, refuses what cannot be, makes a token for other hosts,
answers within its description (schemathesis), survives many clients at once, and stops when told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from test_text_clip import write_clip

from anymask.core import rle
from anymask.text.embedders import OfflineEmbedder

NO_APP = "import anymask.server.pages as p, pathlib; p.has_app.__defaults__ = (pathlib.Path('/nowhere'),)"
COMMAND = (
    f"{NO_APP}; import sys; from anymask.cli.main import run; sys.argv = ['anymask', 'serve', *sys.argv[1:]]; run()"
)


def start(*options: str, home: Path) -> subprocess.Popen:
    """The command, without the app: nothing has to be exported."""
    env = {**os.environ, "ANYMASK_HOME": str(home), "ANYMASK_OFFLINE": "1"}
    command = [sys.executable, "-c", COMMAND, "--port", "0", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def end(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = start(home=tmp_path_factory.mktemp("home"))
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"open (http://127\.0\.0\.1:\d+)/ ", line)
    assert found, line
    yield found[1]
    assert end(process) in (0, -signal.SIGTERM)


def photo(tmp_path: Path, seed: int = 0) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return (tmp_path / "photo.png").read_bytes()


def test_many_clients_click_at_once(server: str, tmp_path: Path) -> None:
    """Nobody gets an error but 503, and the line is empty afterwards."""
    ids = [httpx.post(f"{server}/api/images", content=photo(tmp_path, i), timeout=120).json()["id"] for i in range(3)]
    statuses: list[int] = []

    def client(number: int) -> None:
        with httpx.Client(timeout=120) as session:
            for i in range(3):
                body = {"prompts": [{"points": [[(7 * number) % 120, 10 + 20 * i]], "labels": [1]}]}
                answer = session.post(f"{server}/api/images/{ids[number % 3]}/predict", json=body)
                statuses.append(answer.status_code)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 60 and set(statuses) <= {200, 503} and statuses.count(200) > 10
    assert httpx.get(f"{server}/api/health").json()["waiting"] == 0
    batches = httpx.get(f"{server}/metrics").text
    calls = float(
        next(line for line in batches.splitlines() if line.startswith("anymask_batch_prompts_count")).split()[1]
    )
    assert calls < 60 + 3, "clicks on one photo shared calls"


def test_a_reader_that_leaves_ends_the_search(server: str, tmp_path: Path) -> None:
    photo_id = httpx.post(f"{server}/api/images", content=photo(tmp_path, 9), timeout=120).json()["id"]
    body = {"points_per_side": 64}
    with httpx.stream("POST", f"{server}/api/images/{photo_id}/everything", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        assert '"progress"' in next(answer.iter_lines())
    for _ in range(4):  # more than may run at once: those before have ended
        deadline = time.monotonic() + 60
        while True:
            with httpx.stream("POST", f"{server}/api/images/{photo_id}/everything", json=body, timeout=120) as answer:
                if answer.status_code == 200:
                    next(answer.iter_lines())
                    break
            assert answer.status_code == 503 and time.monotonic() < deadline
            time.sleep(0.2)


def test_other_hosts_get_a_token(tmp_path: Path) -> None:
    process = start("--host", "0.0.0.0", home=tmp_path)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"open http://[^:]+:(\d+)/\?token=([\w-]{30,})", line)
        assert found, line
        url = f"http://127.0.0.1:{found[1]}"
        assert httpx.get(f"{url}/api/model").status_code == 401
        assert httpx.get(f"{url}/api/model", headers={"authorization": f"Bearer {found[2]}"}).status_code == 200
    finally:
        end(process)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "70000"], "65535"),
        (["--token", "short"], "16 characters"),
        (["--host", "no-such-host.invalid"], "cannot listen"),
        (["--model", "vit_x"], "vit_b"),
        (["--cache-mb", "0"], "cache_bytes"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: list[str], says: str, tmp_path: Path) -> None:
    process = start(*options, home=tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2 and says in error and "Traceback" not in error


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("--port", str(taken.getsockname()[1]), home=tmp_path)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 2 and "Choose another --port" in error


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_model_serves_as_well(runtime: str, server: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    image = np.zeros((90, 120, 3), np.uint8)
    image[20:70, 30:80] = 230, 60, 40
    Image.fromarray(image).save(tmp_path / "disc.png")
    process = start("--runtime", runtime, home=tmp_path / "home")
    try:
        assert process.stdout is not None
        found = re.search(r"open (http://127\.0\.0\.1:\d+)/ ", line := process.stdout.readline())
        assert found, line
        masks = []
        for place in (found[1], server):
            upload = httpx.post(f"{place}/api/images", content=(tmp_path / "disc.png").read_bytes(), timeout=300)
            body = {"prompts": [{"points": [[55, 45]], "labels": [1]}, {"box": [28, 18, 82, 72]}]}
            answer = httpx.post(f"{place}/api/images/{upload.json()['id']}/predict", json=body, timeout=300)
            assert answer.status_code == 200, answer.text
            best = [found["candidates"][0]["segmentation"] for found in answer.json()["objects"]]
            masks.append([rle.decode_one(one) for one in best])
        for theirs, ours in zip(*masks, strict=True):
            assert (theirs & ours).sum() >= 0.97 * (theirs | ours).sum() > 1000
    finally:
        assert end(process) in (0, -signal.SIGTERM)


def test_a_clip_ranks_by_its_own_similarity(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    process = start("--text-model", str(write_clip(tmp_path / "clip")), home=tmp_path / "home")
    try:
        assert process.stdout is not None
        found = re.search(r"open (http://127\.0\.0\.1:\d+)/ ", line := process.stdout.readline())
        assert found, line
        assert httpx.get(f"{found[1]}/api/model").json()["words"] is True
        photo_id = httpx.post(f"{found[1]}/api/images", content=photo(tmp_path), timeout=120).json()["id"]
        body = {"prompts": [{"points": [[60, 45]], "labels": [1], "text": "a ball"}]}
        answer = httpx.post(f"{found[1]}/api/images/{photo_id}/predict", json=body, timeout=120).json()
        similarities = [mask["text_similarity"] for mask in answer["objects"][0]["candidates"]]
        assert len(similarities) == 3 and similarities == sorted(similarities, reverse=True)
        offline = OfflineEmbedder().similarities(*masks_of(answer, tmp_path), ["a ball"])[0]
        assert not np.allclose(similarities, offline, atol=1e-3)
    finally:
        assert end(process) in (0, -signal.SIGTERM)


def masks_of(answer: dict, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The photo and the candidates of the first object."""
    best = [mask["segmentation"] for mask in answer["objects"][0]["candidates"]]
    return np.asarray(Image.open(folder / "photo.png")), np.stack([rle.decode_one(one) for one in best])


def test_a_folder_without_a_clip_is_refused_at_once(tmp_path: Path) -> None:
    process = start("--text-model", str(tmp_path / "nowhere"), home=tmp_path / "home")
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2 and "nowhere is none of them" in complaint, complaint
    assert "Traceback" not in complaint


def test_answers_are_as_described(server: str, tmp_path: Path) -> None:
    """Generated requests against the description: no 500, every status and body as it says."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    calm = settings(
        max_examples=5,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    photo_id = httpx.post(f"{server}/api/images", content=photo(tmp_path, 5), timeout=120).json()["id"]

    def check(case: schemathesis.Case) -> None:
        if "photo_id" in case.path_parameters and case.method.upper() != "DELETE":
            case.path_parameters["photo_id"] = photo_id  # else nearly all would be 404
        if case.path.endswith("/everything") and isinstance(case.body, dict) and "points_per_side" in case.body:
            case.body["points_per_side"] = 2 if case.body["points_per_side"] in range(1, 65) else 0
        case.call_and_validate(checks=checks, timeout=120)

    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        calm(given(case=operation.as_strategy())(check))()
        tried.add((operation.method, operation.path))
    assert len(tried) >= 11
