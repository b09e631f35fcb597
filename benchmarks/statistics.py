"""The arithmetic of the benchmark, pure: percentiles, ages, fairness, rates.

Times are in seconds on one monotonic clock unless a name says otherwise. The words:

- A key's *scheduled time* is when the person was to press it. A client that runs late is not forgiven: the age
  counts from there, not from when the request was sent.
- The *prompt age* of a shown picture = its arrival - the scheduled time of the key that it depicts. Only
  pictures that were shown count, so a server that drops keys is not punished here; that is what the next is for.
- The *screen age* at a moment = that moment - the scheduled time of the key that the picture on the screen
  depicts; while the screen is still blank, of the person's first key. It is sampled every SAMPLE seconds over
  the window, for every typist. A person who types at k keys/s and saw every key at once would have 0.5/k.
- A picture is *shown* when it arrives and depicts a newer key than the one on the screen.
- *Fairness* = pictures shown to the typist who got most over those of the one who got least (who counts as
  having got at least one, so that the figure stays finite). 1 is perfect.
- The *superseded share* = keys scheduled in the window that no picture was shown for, over all of them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLE = 0.01


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest ranks (numpy's default). NaN when there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that came onto a typist's screen at `arrived`, drawn for the key scheduled at `scheduled`."""

    scheduled: float
    arrived: float

    @property
    def age(self) -> float:
        return self.arrived - self.scheduled


@dataclass(frozen=True, slots=True)
class Typed:
    """What one typist did and saw: scheduled times of all keys, and the pictures, both in order of time."""

    keys: tuple[float, ...]
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class TypistFigures:
    """Of one run over one window; ages in seconds. NaN where no picture was shown."""

    images_per_s: float
    prompt_age_p50: float
    prompt_age_p95: float
    screen_age_p50: float
    screen_age_p95: float
    fairness: float
    superseded_share: float


def typist_figures(typists: Sequence[Typed], start: float, end: float) -> TypistFigures:
    """The figures of all `typists` together over the window [start, end)."""
    in_window = [[each for each in typist.shown if start <= each.arrived < end] for typist in typists]
    ages = [each.age for shown in in_window for each in shown]
    keys = sum(start <= key < end for typist in typists for key in typist.keys)
    screen = [age for typist in typists for age in screen_ages(typist, start, end)]
    delivered = [len(shown) for shown in in_window]
    return TypistFigures(
        images_per_s=len(ages) / (end - start),
        prompt_age_p50=percentile(ages, 50),
        prompt_age_p95=percentile(ages, 95),
        screen_age_p50=percentile(screen, 50),
        screen_age_p95=percentile(screen, 95),
        fairness=fairness(delivered),
        superseded_share=max(0.0, 1 - len(ages) / keys) if keys else math.nan,
    )


def screen_ages(typist: Typed, start: float, end: float) -> list[float]:
    """How old the picture on the typist's screen is, sampled every SAMPLE seconds from `start` to `end`."""
    if not typist.keys:
        return []
    arrivals = [each.arrived for each in typist.shown]
    ages = []
    for i in range(math.ceil((end - start) / SAMPLE)):
        moment = start + i * SAMPLE
        on_screen = bisect.bisect_right(arrivals, moment) - 1
        scheduled = typist.shown[on_screen].scheduled if on_screen >= 0 else typist.keys[0]
        if moment >= scheduled:
            ages.append(moment - scheduled)
    return ages


def fairness(delivered: Sequence[int]) -> float:
    """Most over least; NaN when nobody got anything."""
    if not delivered or max(delivered) == 0:
        return math.nan
    return max(delivered) / max(1, min(delivered))
