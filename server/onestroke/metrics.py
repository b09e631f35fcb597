"""What an operator watches. One registry per server, so that several live side by side in a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

SECONDS = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.35,
    0.5,
    0.75,
    1.0,
    2.0,
    5.0,
)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """The server's counters, gauges and histograms; times in seconds."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.open_sessions = 0
        self.requests = Counter("onestroke_requests", "HTTP answers.", ["route", "code"], registry=registry)
        self.pictures = Counter(
            "onestroke_pictures", "Pictures finished.", ["lane", "model"], registry=registry
        )
        self.superseded = Counter(
            "onestroke_superseded",
            "Keystrokes replaced by a newer one before they were drawn.",
            registry=registry,
        )
        self.rejected = Counter(
            "onestroke_rejected", "Requests that were not served.", ["reason"], registry=registry
        )
        self.worker_restarts = Counter(
            "onestroke_worker_restarts", "Workers lost.", ["reason"], registry=registry
        )
        self.dispatch_stop = Counter(
            "onestroke_dispatch_stop", "Why a pass took no more rows.", ["reason"], registry=registry
        )
        self.unet_rows = Counter("onestroke_unet_rows", "Rows stepped through the UNet.", registry=registry)
        self.passes = Counter("onestroke_passes", "Passes run.", registry=registry)
        self.mixed_passes = Counter(
            "onestroke_mixed_passes", "Passes whose rows stood at different steps.", registry=registry
        )
        self.queue_seconds = Histogram(
            "onestroke_queue_seconds", "Wait from acceptance to the first pass.", ["lane"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.pass_seconds = Histogram(
            "onestroke_pass_seconds", "One pass, all verbs.", buckets=SECONDS, registry=registry
        )
        self.verb_seconds = Histogram(
            "onestroke_verb_seconds", "One verb of a pass.", ["verb"], buckets=SECONDS, registry=registry
        )
        self.encode_seconds = Histogram(
            "onestroke_encode_seconds", "Pixels to JPEG, PNG or WebP.", buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "onestroke_batch_size", "UNet rows in a pass.", buckets=ROWS, registry=registry
        )
        self.keystroke_seconds = Histogram(
            "onestroke_keystroke_to_image_seconds", "From a key's arrival to its picture handed to the socket.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.sessions = Gauge("onestroke_sessions", "Typing sessions open.", registry=registry)
        self.backlog = Gauge("onestroke_backlog", "Rows waiting for their first pass.", registry=registry)
        self.ready = Gauge("onestroke_ready", "1 when a picture can be made now.", registry=registry)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Counts a typing session for as long as the block lasts."""
        self.open_sessions += 1
        self.sessions.set(self.open_sessions)
        try:
            yield
        finally:
            self.open_sessions -= 1
            self.sessions.set(self.open_sessions)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _Merged(Collector):
    def __init__(self, servers: Mapping[str, Iterable[Metric]]) -> None:
        self._servers = servers

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for server, metrics in self._servers.items():
            for each in metrics:
                empty = Metric(each.name, each.documentation, each.type, each.unit)
                family = families.setdefault(each.name, empty)
                family.samples += [
                    sample._replace(labels={**sample.labels, "replica": server}) for sample in each.samples
                ]
        return families.values()


def merged(servers: Mapping[str, Iterable[Metric]]) -> bytes:
    """One exposition of several servers' metrics, by their names, which become the label `replica`."""
    return generate_latest(_Merged(servers))
