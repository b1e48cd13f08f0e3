"""What a server counts, as Prometheus reads it."""

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from unireason_jax.inference.continuous_batching import News

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.ended = self._of(Counter, "conversations", "by how they ended", ["outcome"])
        self.refused = self._of(Counter, "refused", "requests by why they were refused", ["reason"])
        self.tokens = self._of(Counter, "tokens", "tokens written")
        self.images = self._of(Counter, "images", "images drawn")
        self.running = self._of(Gauge, "running", "conversations on their way")
        self.waiting = self._of(Gauge, "waiting", "conversations in the queue")
        times = {"buckets": _SECONDS}
        about = "from the request to its first words"
        self.first_words = self._of(Histogram, "first_words_seconds", about, **times)
        about = "from the request to its first image"
        self.first_image = self._of(Histogram, "first_image_seconds", about, **times)
        self.seconds = self._of(Histogram, "seconds", "from the request to its end", **times)

    def note(self, ticket: Any, news: News, seconds: float) -> None:
        """Counts news of a ticket that came `seconds` after it."""
        if news.kind == "words" and not ticket.spoke:
            ticket.spoke = True
            self.first_words.observe(seconds)
        if news.kind == "step" and news.step.kind == "image":
            self.images.inc()
            if not ticket.drew:
                ticket.drew = True
                self.first_image.observe(seconds)
        if news.kind == "step" and news.step.kind == "text":
            self.tokens.inc(news.step.forwards)
        if news.kind in ("end", "error"):
            self.ended.labels({"end": "done", "error": "failed"}[news.kind]).inc()
        if news.kind == "end":
            self.seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus's text form."""
        return generate_latest(self.registry)

    def _of(self, kind: Any, name: str, about: str, labels: Any = (), **more: Any) -> Any:
        return kind(f"unireason_{name}", about, labels, registry=self.registry, **more)
