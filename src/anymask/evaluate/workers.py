"""Who scores the cases of a task: this process, several of this machine, or Ray on any number of machines.

Each way gives the same rows, in the order in which they are done. What travels is a case, with its photo, and its row;
on Ray the weights and folders that a task names must lie where every machine sees them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from anymask.core.errors import AnymaskError, InputError, StateError
from anymask.evaluate.contract import Case, Task

if TYPE_CHECKING:
    from anymask.predict.ray_engine import RaySettings

Answer = tuple[dict[str, Any] | None, str]  # the row, or None and the reason


def score_cases(task: Task, cases: list[Case], workers: int | RaySettings) -> Iterator[tuple[Case, Answer]]:
    """Each case with its answer, as they are done. workers: processes of this machine, or Ray."""
    if not cases:
        return iter(())
    if isinstance(workers, int) and (workers == 1 or len(cases) < 2):
        return ((case, _score(task, case)) for case in cases)
    cases = sorted(cases, key=lambda case: -case.effort)
    return _in_processes(task, cases, workers) if isinstance(workers, int) else _on_ray(task, cases, workers)


def one_cluster(workers: int | RaySettings) -> AbstractContextManager[None]:
    """One Ray cluster for all runs inside, where Ray is asked for."""
    if isinstance(workers, int):
        return nullcontext()
    from anymask.predict.ray_engine import ray_cluster

    return ray_cluster(workers)


def _score(task: Task, case: Case) -> Answer:
    try:
        return task.score(case), ""
    except (InputError, OSError) as error:
        return None, str(error)
    except AnymaskError:
        raise  # a missing extra, broken weights: the same for every case


def _in_processes(task: Task, cases: list[Case], num_workers: int) -> Iterator[tuple[Case, Answer]]:
    context = get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(num_workers, context, _set_up, (task, num_workers)) as pool:
        futures = {pool.submit(_score_here, case): case for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise StateError(
                "a worker process died, perhaps for lack of memory. What is scored is kept: run the same command "
                "again, with fewer --workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_task: Task | None = None  # of this worker process


def _set_up(task: Task, num_workers: int) -> None:
    global _task
    import cv2
    import torch

    threads = max(1, (os.cpu_count() or 1) // num_workers)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    _task = task


def _score_here(case: Case) -> Answer:
    assert _task is not None
    return _score(_task, case)


def _on_ray(task: Task, cases: list[Case], settings: RaySettings) -> Iterator[tuple[Case, Answer]]:
    """One case at a time for each actor. One that dies is started again, and so is its case, `attempts` times."""
    with one_cluster(settings):
        ray: Any = import_module("ray")
        num_gpus = settings.num_gpus
        if num_gpus is None:
            num_gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        options = {"num_cpus": settings.num_threads, "num_gpus": num_gpus}
        options |= {"max_restarts": -1, "max_task_retries": settings.attempts - 1}
        worker = ray.remote(**options)(_Worker)
        count = min(settings.num_workers, len(cases))
        idle = [worker.remote(task, settings.num_threads, os.getcwd()) for _ in range(count)]
        waiting = cases[::-1]
        running: dict[Any, tuple[Any, Case]] = {}
        while waiting or running:
            while waiting and idle:
                actor, case = idle.pop(), waiting.pop()
                running[actor.score.remote(case)] = actor, case
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor, case = running.pop(done)
            idle.append(actor)
            try:
                answer = ray.get(done)
            except ray.exceptions.RayActorError:
                answer = None, f"{settings.attempts} workers died on it, perhaps for lack of memory."
            if isinstance(answer, AnymaskError):
                raise answer
            yield case, answer


class _Worker:
    """A process of Ray with the task; Ray itself tells torch how many threads it has."""

    def __init__(self, task: Task, num_threads: int, folder: str) -> None:
        import cv2

        cv2.setNumThreads(num_threads)
        with suppress(OSError):  # so that relative paths mean what they mean here
            os.chdir(folder)
        self._task = task

    def score(self, case: Case) -> Answer | AnymaskError:
        """The answer; an error that every case would meet travels as a value, with its own type."""
        try:
            return _score(self._task, case)
        except AnymaskError as error:
            return error
