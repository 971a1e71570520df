"""Counters of one server in Prometheus' text form."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any


class Metrics:
    """What is counted; each server has its own registry, so two in one process do not mix."""

    def __init__(self, waiting: Callable[[], int], cache_bytes: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._requests = Counter(
            "anymask_requests_total", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram("anymask_request_seconds", "Time to the answer.", ["route"], registry=self._registry)
        self._batches = Histogram(
            "anymask_batch_prompts",
            "Prompts answered by one call of the model.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self._evictions = Counter("anymask_evictions_total", "Embeddings let go for room.", registry=self._registry)
        Gauge("anymask_waiting_jobs", "Jobs in line.", registry=self._registry).set_function(waiting)
        Gauge("anymask_cache_bytes", "Memory of embeddings.", registry=self._registry).set_function(cache_bytes)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """The model was called for so many prompts."""
        self._batches.observe(size)

    def eviction(self) -> None:
        """An embedding made room."""
        self._evictions.inc()

    def text(self) -> bytes:
        """All of it."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class Measured:
    """Counts and times requests by route, not by address: addresses have no bound. Plain ASGI."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_measured(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_measured)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, status, time.perf_counter() - started)
