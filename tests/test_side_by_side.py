"""Blocks of prompts in threads: the order, the errors and torch's own threads stay as they are."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from anymask.core.types import PromptBatch
from anymask.model.presets import build_sam
from anymask.model.threads import in_threads
from anymask.predict.segmenter import TorchSegmenter


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_of_one_torch_thread() -> None:
    both = threading.Barrier(2, timeout=60)

    def work(i: int) -> tuple[int, int, int]:
        if i < 2:
            both.wait()  # two at a time, or never
        return i, threading.get_ident(), torch.get_num_threads()

    found = list(in_threads(work, range(9)))
    assert [i for i, _, _ in found] == list(range(9))
    assert threading.get_ident() not in {thread for _, thread, _ in found}
    assert {size for _, _, size in found} == {1}
    assert torch.get_num_threads() == 2
    started_later: list[int] = []
    thread = threading.Thread(target=lambda: started_later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started_later == [2]


def test_inside_of_work_it_is_a_plain_map() -> None:
    def work(i: int) -> list[bool]:
        here = threading.get_ident()
        return list(in_threads(lambda _: threading.get_ident() == here, range(i)))

    assert list(in_threads(work, range(4))) == [[True] * i for i in range(4)]


def test_no_further_ahead_than_one_more_than_threads_and_errors_arrive() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        if i == 5:
            raise ValueError("five")
        return i

    results = in_threads(work, items())
    assert next(results) == 0 and len(taken) == 3
    with pytest.raises(ValueError, match="five"):
        list(results)
    assert len(taken) <= 8


def test_many_prompts_answer_as_one_by_one() -> None:
    torch.manual_seed(0)
    segmenter = TorchSegmenter(build_sam("vit_b", image_size=128).eval())
    embedding = segmenter.encode([np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)])[0]
    xy = np.random.default_rng(1).random((21, 1, 2)).astype(np.float32) * 96
    labels = np.ones((21, 1))
    together = segmenter.decode(embedding, PromptBatch(xy, labels), True)
    for i in range(21):
        alone = segmenter.decode(embedding, PromptBatch(xy[i : i + 1], labels[i : i + 1]), True)
        torch.testing.assert_close(together.low_res[i : i + 1], alone.low_res, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.predicted_iou[i : i + 1], alone.predicted_iou, rtol=1e-4, atol=1e-4)


def test_a_single_click_has_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of its own in one thread of one torch thread would take half as long again."""
    torch.manual_seed(0)
    segmenter = TorchSegmenter(build_sam("vit_b", image_size=128).eval())
    embedding = segmenter.encode([np.zeros((96, 128, 3), np.uint8)])[0]
    seen: list[tuple[int, int]] = []
    decode = segmenter.sam.decode

    def watched(*args: object) -> object:
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return decode(*args)

    monkeypatch.setattr(segmenter.sam, "decode", watched)
    segmenter.decode(embedding, PromptBatch(np.full((1, 1, 2), 40, np.float32), np.ones((1, 1))), True)
    assert seen == [(threading.get_ident(), 2)]
    segmenter.decode(embedding, PromptBatch(np.full((9, 1, 2), 40, np.float32), np.ones((9, 1))), True)
    assert {threads for _, threads in seen[1:]} == {1} and len(seen) > 2


def test_a_forked_process_has_a_team_of_its_own() -> None:
    code = """
import os, torch
from anymask.model.threads import in_threads
torch.set_num_threads(2)
print(list(in_threads(abs, [-1, -2])), flush=True)
child = os.fork()
if child == 0:
    print(list(in_threads(abs, [-3, -4])), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["[1, 2]", "[3, 4]"], done.stdout + done.stderr
