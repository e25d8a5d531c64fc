"""Figures for Prometheus: what came, what became of it, and how fast the engine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args

import psutil
from fastapi import FastAPI, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.imaging import ImageError
from serving.models import LoadedModel, NotReadyError
from serving.observer import Refusal
from serving.work import Translation

if TYPE_CHECKING:
    from serving.lines import Load
    from serving.swap import Models

ROUTES = ("/v1/translate", "/v1/translate/batch", "/v1/latency", "/v1/model", "/")
"""Paths that are told apart; whatever else a client asks for is ``other``, however many there are.
"""

UNCOUNTED = ("/metrics", "/healthz", "/readyz")
"""Asked for by machines every few seconds; they would drown the rest."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the buckets of every histogram."""

REASONS: tuple[Refusal, ...] = get_args(Refusal)


class Metrics:
    """The figures of one server, in a registry of its own; an observer of its images.

    Labels take a fixed number of values, whatever clients send.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "pocketgan_requests",
            "HTTP answers, by route and class of status.",
            ["route", "status"],
            registry=registry,
        )
        self._request_s = Histogram(
            "pocketgan_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._accepted = Counter(
            "pocketgan_images_accepted", "Images that were let in to wait.", registry=registry
        )
        self._images = Counter("pocketgan_images", "Images translated.", registry=registry)
        self._pixels = Counter(
            "pocketgan_pixels", "Pixels that the engine saw, padding included.", registry=registry
        )
        self._refused = Counter(
            "pocketgan_images_refused", "Images sent away.", ["reason"], registry=registry
        )
        self._failed = Counter(
            "pocketgan_images_failed",
            "Images not translated: the image was at fault, or the engine.",
            ["fault"],
            registry=registry,
        )
        self._abandoned = Counter(
            "pocketgan_images_abandoned", "Images whose client left.", registry=registry
        )
        stage_s = Histogram(
            "pocketgan_stage_seconds",
            "Where the time of an image went.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._queue_s, self._decode_s, self._engine_s, self._encode_s = (
            stage_s.labels(stage) for stage in ("queue", "decode", "engine", "encode")
        )
        # there from the start: a rate over a series that begins with its first error misses it
        for reason in REASONS:
            self._refused.labels(reason)
        for fault in ("image", "engine"):
            self._failed.labels(fault)

    def watch(self, models: Models, waiting: Callable[[], Load]) -> None:
        """Tell of the models and the queue too, as they are whenever somebody asks.

        Args:
            models: What serves.
            waiting: How much waits.
        """
        self.registry.register(_Now(models, waiting))

    def accepted(self, pixels: int) -> None:
        """An image of about so many pixels waits for the engine."""
        self._accepted.inc()

    def refused(self, reason: Refusal) -> None:
        """An image was sent away."""
        self._refused.labels(reason).inc()

    def abandoned(self) -> None:
        """Whoever sent an image left before it was answered."""
        self._abandoned.inc()

    def finished(self, translation: Translation) -> None:
        """An image was translated."""
        self._images.inc()
        self._pixels.inc(translation.pixels)
        self._queue_s.observe(translation.queue_ms / 1e3)
        self._decode_s.observe(translation.decode_ms / 1e3)
        self._engine_s.observe(translation.engine_ms / 1e3)
        self._encode_s.observe(translation.encode_ms / 1e3)

    def failed(self, error: Exception) -> None:
        """An image was damaged or too large, or the engine failed on it."""
        fault = "image" if isinstance(error, ImageError) else "engine"
        self._failed.labels(fault).inc()

    def answered(self, path: str, status: int, seconds: float) -> None:
        """An HTTP request was answered."""
        if path in UNCOUNTED:
            return
        route = path if path in ROUTES else "other"
        self._requests.labels(route, f"{status // 100}xx").inc()
        self._request_s.labels(route).observe(seconds)


class CountRequests:
    """ASGI: tell the figures of every HTTP request.

    Args:
        app: What answers.
        metrics: Where to count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count that."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500  # what a server says of an application that says nothing

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.answered(scope["path"], status, time.perf_counter() - started)


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """Answer ``GET /metrics``, and count what ``app`` answers."""
    app.add_middleware(CountRequests, metrics=metrics)

    @app.get("/metrics", response_class=Response)
    def scrape() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


class _Now:
    """What is only true when somebody asks: the queue, the models, the memory."""

    def __init__(self, models: Models, waiting: Callable[[], Load]) -> None:
        self._models = models
        self._waiting = waiting
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        """Figures of this moment."""
        waiting, view = self._waiting(), self._models.view()
        yield _gauge("queue_images", "Images that wait.", waiting.images)
        yield _gauge("queue_pixels", "Their pixels together.", waiting.pixels)
        yield _gauge("queue_bytes", "Their encoded bytes together.", waiting.size_bytes)
        rss = self._process.memory_info().rss
        yield _gauge("resident_memory_bytes", "Memory of this process.", rss)
        changes = CounterMetricFamily(
            "pocketgan_model_changes", "Changes of the model, by outcome.", labels=["outcome"]
        )
        for outcome in ("swaps", "refused", "rollbacks"):
            changes.add_metric([outcome], getattr(view, outcome))
        yield changes
        try:
            model = self._models.current
        except NotReadyError:
            yield _gauge("ready", "Whether an engine is warm.", 0)
            return
        yield _gauge("ready", "Whether an engine is warm.", 1)
        degraded = bool(model.watch.degraded)
        yield _gauge("degraded", "Whether the engine is slower than its budget.", degraded)
        manifest = model.bundle.manifest
        yield InfoMetricFamily(
            "pocketgan_bundle",
            "The bundle in service.",
            value={
                "digest": model.digest,
                "name": manifest.model.name,
                "precision": manifest.precision,
                "backend": manifest.backend,
                "profile": manifest.profile.name,
            },
        )
        yield from _speed(model)


def _speed(model: LoadedModel) -> Iterator[Metric]:
    """The engine at the size that its budget is for, and that budget."""
    seen, budget = model.translator.latency().engine_at_image_size, model.watch.budget
    engine = GaugeMetricFamily(
        "pocketgan_engine_at_image_size_seconds",
        "The engine alone, on images of the size that the budget is for.",
        labels=["quantile"],
    )
    promised = GaugeMetricFamily(
        "pocketgan_engine_budget_seconds",
        "What the device profile promises for it.",
        labels=["quantile"],
    )
    for quantile, got_ms, budget_ms in (
        ("0.5", seen.p50_ms, budget.p50_ms),
        ("0.9", seen.p90_ms, budget.p90_ms),
        ("0.99", seen.p99_ms, budget.p99_ms),
    ):
        if got_ms is not None:  # too few images yet
            engine.add_metric([quantile], got_ms / 1e3)
        promised.add_metric([quantile], budget_ms / 1e3)
    yield engine
    yield promised


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pocketgan_{name}", text, value=value)
