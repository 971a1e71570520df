"""Many photos on many machines with Ray Data: shards → photos → an actor pool that holds the model → outcomes.

What travels through Ray is where photos lie and how they went, a few hundred bytes each; photos are read and masks
written by the actors, in the output folder that all machines share. So nothing piles up: an actor is handed the next
photos when it has taken the last ones, and the list of a shard is read when there is room for it (back-pressure is Ray
Data's own). An actor or machine that dies is replaced, and its photos are given to another; those that it had finished
have their entries, and are skipped. A photo that was begun `ATTEMPTS` times in a run and never ended is given up.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from anymask.core.errors import AnymaskError, MissingExtraError
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.everything import Outcome, Plan, segment_photo
from anymask.predict.shards import Shard, ShardReport, write_shard
from anymask.predict.sources import STATE, PhotoSource
from anymask.predict.workers import check_workers

ATTEMPTS = 3  # machines are taken away now and then, so two deaths do not prove that the photo is the reason
PHOTOS_PER_TASK = 8  # handed to an actor together: few enough that the last ones do not keep the others waiting
_STORE_BYTES = 200 * 2**20  # of a local cluster's object store; only names travel

Load = Callable[[], SamAutomaticMaskGenerator]


@dataclass(frozen=True)
class RaySettings:
    """Where and how wide to run. address: of a cluster to join, or None for one on this machine, ended with the run.

    num_threads, num_gpus: of each worker; num_gpus None: one where the cluster has any. attempts: how often a photo is
    begun in a run before it is given up.
    """

    num_workers: int
    address: str | None = None
    num_threads: int = 1
    num_gpus: float | None = None
    photos_per_task: int = PHOTOS_PER_TASK
    attempts: int = ATTEMPTS


@contextmanager
def ray_cluster(settings: RaySettings) -> Iterator[None]:
    """Ray, connected; disconnected at the end, and a cluster of our own ended. No statistics, no dashboard.

    Inside another one it is that one, so that several runs share a cluster.
    """
    check_workers(settings.num_workers)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray = _import("ray")
    _import("ray.data")
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if settings.address is not None:
        try:
            ray.init(address=settings.address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise AnymaskError(f"no Ray cluster answers at {settings.address}: {error}") from error
    else:
        ray.init(
            num_cpus=settings.num_workers * settings.num_threads + 2,  # for lists and for writing shards
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **common,
        )
    try:
        yield
    finally:
        ray.shutdown()


def segment_on_ray(
    load: Load, items: Sequence[PhotoSource] | Sequence[Shard], plan: Plan, settings: RaySettings
) -> Iterator[Outcome]:
    """As `workers.segment_in_workers`, inside `ray_cluster`. items: photos, or shards, listed on any machine."""
    ray = _import("ray")
    _quieten(ray)
    size = settings.photos_per_task
    rows = [{"item": pickle.dumps(item)} for item in items]
    if isinstance(items[0], Shard):
        shards = ray.data.from_items(rows, override_num_blocks=len(rows))
        tasks = shards.flat_map(_listed, num_cpus=1).repartition(target_num_rows_per_block=size)
    else:
        tasks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size))
    num_gpus = settings.num_gpus
    if num_gpus is None:
        num_gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    run = uuid.uuid4().hex
    outcomes = tasks.map(
        _Actor,
        fn_constructor_args=(load, plan, settings, run),
        compute=ray.data.ActorPoolStrategy(size=settings.num_workers),
        num_cpus=settings.num_threads,
        num_gpus=num_gpus or None,
    )
    try:
        for row in outcomes.iter_rows():
            answer = pickle.loads(row["outcome"])
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        shutil.rmtree(_markers(plan, run), ignore_errors=True)


def write_shard_on_ray(shard: Shard, plan: Plan, errors: dict[str, str]) -> Callable[[], ShardReport]:
    """Start `write_shard` on any machine; returns how to wait for its report."""
    ray = _import("ray")
    reference = ray.remote(num_cpus=0.5, max_retries=ATTEMPTS)(write_shard).remote(shard, plan, errors)

    def wait() -> ShardReport:
        report: ShardReport = ray.get(reference)
        return report

    return wait


def _import(name: str) -> Any:
    """A module of Ray, untyped; MissingExtraError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError("--engine ray needs Ray: pip install 'anymask[ray]'") from error


def _quieten(ray: Any) -> None:
    """No bars and hints of Ray's own: ours tells how far a run is, and failures come as outcomes."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _listed(row: dict[str, Any]) -> list[dict[str, Any]]:
    shard: Shard = pickle.loads(row["item"])
    return [{"item": pickle.dumps(source)} for source in shard.photos()]


class _Actor:
    """A process with the model: a row with a source in, a row with the outcome out."""

    def __init__(self, load: Load, plan: Plan, settings: RaySettings, run: str) -> None:
        import cv2
        import torch

        torch.set_num_threads(settings.num_threads)
        cv2.setNumThreads(settings.num_threads)
        self._plan, self._run, self._attempts = plan, run, settings.attempts
        self._generator: SamAutomaticMaskGenerator | None = None
        self._problem: Exception | None = None
        try:
            self._generator = load()
        except (AnymaskError, OSError) as error:  # an actor that fails to start would be started for ever
            self._problem = error

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        source: PhotoSource = pickle.loads(row["item"])
        answer: Outcome | Exception
        if self._generator is None:
            assert self._problem is not None
            answer = self._problem
        elif self._begin(source) > self._attempts:
            answer = Outcome(source, error=f"{self._attempts} workers died on it, perhaps for lack of memory.")
        else:
            answer = segment_photo(self._generator, source, self._plan)
        self._end(source)
        return {"outcome": pickle.dumps(answer)}

    def _begin(self, source: PhotoSource) -> int:
        """Note that a photo is begun; returns how many times it was in this run."""
        with suppress(OSError):  # an unwritable place is told when the masks are written
            marker = self._marker(source)
            marker.parent.mkdir(parents=True, exist_ok=True)
            with marker.open("ab") as file:
                file.write(b".")
            return marker.stat().st_size
        return 1

    def _end(self, source: PhotoSource) -> None:
        with suppress(OSError):
            self._marker(source).unlink(missing_ok=True)

    def _marker(self, source: PhotoSource) -> Path:
        return _markers(self._plan, self._run) / (source.group or "photos") / source.stem


def _markers(plan: Plan, run: str) -> Path:
    """Folder that notes which photos a run has begun."""
    return plan.folder / STATE / f"begun-{run}"
