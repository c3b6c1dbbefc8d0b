"""What the service counts. Each service has a registry of its own, so two in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    """Counters of one service. `registry` takes those of other parts, such as the dispatcher's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "headrace_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.latency = Histogram(
            "headrace_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("method", "route"),
            buckets=_LATENCIES_S,
            registry=self.registry,
        )
        self._answered: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}
        self.open_requests = Gauge("headrace_http_open_requests", "Requests under way.", registry=self.registry)
        self.sessions = Counter("headrace_sessions_total", "Credentials handed out.", ("kind",), registry=self.registry)
        self.tasks = Counter(
            "headrace_tasks_submitted_total", "Tasks submitted through the service.", ("door",), registry=self.registry
        )
        self.functions = Counter("headrace_functions_registered_total", "Functions registered.", registry=self.registry)
        self.deliveries = Counter(
            "headrace_deliveries_total",
            "Events that were matched, attempts that were sent and how they ended, deliveries postponed and given up.",
            ("what",),
            registry=self.registry,
        )
        self.feeds = Counter(
            "headrace_feed_messages_total",
            "Messages of other systems: received, stored, stored before, passed over, lost.",
            ("what",),
            registry=self.registry,
        )
        self.nats_events = Counter(
            "headrace_nats_events_total",
            "Events that programs published over NATS: stored, refused, turned away for want of room.",
            ("what",),
            registry=self.registry,
        )
        self.job_restarts = Counter(
            "headrace_job_restarts_total",
            "Times a background task of the service died and was started again.",
            ("job",),
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, *, took_s: float) -> None:
        """Count a request whose answer has been sent."""
        key = (method, route, status)
        found = self._answered.get(key)
        if found is None:
            counts = self.latency.labels(method, route), self.requests.labels(method, route, str(status))
            found = self._answered[key] = counts
        latency, requests = found
        latency.observe(took_s)
        requests.inc()

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
