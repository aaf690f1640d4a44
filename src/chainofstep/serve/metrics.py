"""What a server counts, as Prometheus reads it at /metrics."""

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from chainofstep.serve.guard import Application, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from chainofstep.answering import Models

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server, in a registry of its own.

    `in_progress` tells how many requests are being answered. What the models count is read when it is asked for.
    """

    def __init__(self, models: "Models", in_progress: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        mine: dict[str, Any] = {"registry": self.registry, "namespace": "chainofstep"}
        self.requests = Counter("requests", "Requests answered.", ["route", "status"], **mine)
        self.seconds = Histogram("request_seconds", "Until the last byte.", ["route"], buckets=_SECONDS, **mine)
        self.first_step = Histogram(
            "first_step_seconds", "From a request's arrival to its first closed step.", buckets=_SECONDS, **mine
        )
        self.refused = Counter("refused", "Requests refused before a route saw them.", ["reason"], **mine)
        self.cancelled = Counter("cancelled", "Requests whose client went before the end.", **mine)
        running = Gauge("requests_in_progress", "Requests for the models, waiting ones included.", **mine)
        running.set_function(in_progress)
        self.registry.register(_OfModels(models))

    def refuse(self, reason: str) -> None:
        """Count a request that was refused: for its key, size, slowness, or for want of a place."""
        self.refused.labels(reason).inc()

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _OfModels:
    """What the models count, as Prometheus's families."""

    def __init__(self, models: "Models") -> None:
        self.models = models

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        models = self.models
        yield GaugeMetricFamily("chainofstep_samples_waiting", "Samples not begun.", models.waiting)
        yield GaugeMetricFamily("chainofstep_samples_running", "Samples in flight.", models.running)
        yield CounterMetricFamily("chainofstep_sampled_tokens", "Tokens sampled.", value=models.sampled_tokens)
        yield CounterMetricFamily("chainofstep_scored_chains", "Chains scored.", value=models.scored_chains)


class Counted:
    """An application whose answers are counted by route and status."""

    def __init__(self, app: Application, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, started = [0], time.perf_counter()
        route = scope["path"] if scope["path"] in self.routes else "other"

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self._answered(scope, receive, noted)
        finally:
            self.metrics.requests.labels(route, str(status[0] or "none")).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _answered(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.app(scope, receive, send)
