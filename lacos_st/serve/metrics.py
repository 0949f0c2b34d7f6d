"""What a server tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """Counters of one server.

    Args:
        waiting: tells how many texts wait now.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lacos_requests", "Requests by path and HTTP status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "lacos_request_seconds", "Time to the answer", ["path"], buckets=SECONDS, registry=self.registry
        )
        self.texts = Counter("lacos_texts", "Texts encoded", registry=self.registry)
        self.tokens = Counter("lacos_tokens", "Tokens of them", registry=self.registry)
        self.batch_texts = Histogram(
            "lacos_batch_texts", "Texts handed to the model together", buckets=TEXTS, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "lacos_batch_seconds", "Time that the model took for them", buckets=SECONDS, registry=self.registry
        )
        Gauge("lacos_waiting_texts", "Texts that wait", registry=self.registry).set_function(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Note a request that is answered."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def batch(self, texts: int, seconds: float) -> None:
        """Note a batch."""
        self.batch_texts.observe(texts)
        self.batch_seconds.observe(seconds)
        self.texts.inc(texts)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
