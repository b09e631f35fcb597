"""What a pass will cost: for each kind of pass (see FitKey), one least-squares line per verb over the last of it.

BentoML's adaptive batching fits pass time = a*n + b in the same way; here each verb has its own line, because
a pass mixes them in any proportion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from onestroke.core import FitKey, GenerationRequest
from onestroke.workers.messages import Sample

WINDOW = 50
VERBS = ("switch", "encode", "step", "control", "decode")
"""A switch is that of adapters: one or none in a pass. Control is what ControlNets add to a step."""


@dataclass(slots=True)
class Line:
    """seconds = base + slope * n over the last WINDOW observations, neither below zero."""

    points: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    base: float = 0.0
    slope: float = 0.0

    def observe(self, n: int, seconds: float) -> None:
        self.points.append((n, seconds))
        count = len(self.points)
        mean_n = sum(n for n, _ in self.points) / count
        mean_s = sum(s for _, s in self.points) / count
        spread = sum((n - mean_n) ** 2 for n, _ in self.points)
        covariance = sum((n - mean_n) * (s - mean_s) for n, s in self.points)
        slope = max(0.0, covariance / spread) if spread else 0.0
        base = mean_s - slope * mean_n
        if spread == 0 or base <= 0:
            # One batch size seen, or noise: keep the known shape, move it to the new level. A line through zero
            # would say that batches gain nothing; then none would form, and nothing would ever say otherwise.
            known = self.base + self.slope * mean_n
            scale = mean_s / known if known > 0 else 0.0
            base, slope = (self.base * scale, self.slope * scale) if scale else (0.0, mean_s / mean_n)
        self.base, self.slope = base, slope

    def predict(self, n: int) -> float:
        return self.base + self.slope * n if n else 0.0


class Fits:
    """The lines of one kind of pass on one worker."""

    def __init__(self) -> None:
        self._lines = {verb: Line() for verb in VERBS}

    def observe(self, verb: str, n: int, seconds: float, steered: int = 0) -> None:
        """`n` rows took so long: for a step UNet rows (a guided row is two), `steered` of them by ControlNets.

        What such a step took beyond a plain one is the ControlNets'.
        """
        if steered > 0:
            self._lines["control"].observe(steered, max(0.0, seconds - self._lines[verb].predict(n)))
        elif n > 0:
            self._lines[verb].observe(n, seconds)

    def scaled(self, factor: float) -> Fits:
        """The same with steps that take `factor` times as long."""
        other = Fits()
        step = self._lines["step"]
        other._lines = {**self._lines, "step": Line(base=step.base * factor, slope=step.slope * factor)}
        return other

    def predict(self, **rows: int) -> float:
        """Seconds that a pass of so many rows of each verb will take."""
        return sum(self._lines[verb].predict(n) for verb, n in rows.items())

    def one_step(self, rows: int) -> float:
        """Seconds of a pass in which `rows` one-step pictures are encoded, stepped and decoded."""
        return self.predict(encode=rows, step=rows, decode=rows)

    def work(self, steps: int, unet_rows: int, batch: int, steered: int = 0) -> float:
        """Seconds of device time that one picture takes as its share of full passes of `batch` rows."""
        step = unet_rows * self.predict(step=batch) + steered * self.predict(control=batch)
        return (self.predict(encode=batch, decode=batch) + steps * step) / batch

    def knee(self, max_rows: int, share: float = 0.9) -> float:
        """Seconds of the smallest one-step pass that reaches `share` of the best pictures per second.

        Beyond it a larger batch buys little throughput and costs every row in it latency.
        """
        best = max(
            (rows / self.one_step(rows) for rows in range(1, max_rows + 1) if self.one_step(rows)), default=0
        )
        for rows in range(1, max_rows + 1):
            seconds = self.one_step(rows)
            if seconds == 0 or rows / seconds >= share * best:
                return seconds
        return self.one_step(max_rows)


class FitTable:
    """The fits of one worker, one for each kind of pass that it has run."""

    def __init__(self) -> None:
        self._fits: dict[FitKey, Fits] = {}

    def of(self, request: GenerationRequest) -> Fits:
        """What the passes of such a request cost.

        A kind that has not run yet is taken in proportion to one of its model that has; of a model that has not,
        nothing is known.
        """
        key = request.fit
        if key in self._fits:
            return self._fits[key]
        seen = [other for other in self._fits if other.model == key.model]
        like = min(seen, key=lambda other: abs(other.work - key.work), default=None)
        return self._fits[like].scaled(key.work / like.work) if like else Fits()

    def observe(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            fits = self._fits.setdefault(sample.fit, Fits())
            fits.observe(sample.verb, sample.n, sample.seconds, sample.steered)
