"""People who type beside an app that wants many steps: do they share passes, and what does it cost those who type?

While TYPISTS latest-wins typists type one-step pictures, an app asks for pictures of more steps, one after the
other. With 4 steps the server's own counters tell how many of its passes carried rows at different steps. With 50
the same crowd is measured with and without the app, in turns; the shift of the typists' p95 stands beside the time
of one step, the mean over all passes meanwhile by the server's own clock.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.crowds import crowd_of, watch
from benchmarks.serving import OURS, Running
from benchmarks.session import Session, say
from benchmarks.statistics import median, percentile
from benchmarks.typists import Crowd, Outcome
from benchmarks.wire import Http

TYPISTS = 4
FEW, MANY = 4, 50
STEP_SUM = 'onestroke_verb_seconds_sum{verb="step"}'
STEP_COUNT = 'onestroke_verb_seconds_count{verb="step"}'


def measure(session: Session) -> None:
    """Rows `mixed.steps_4.*` and `mixed.steps_50.*`."""
    running, repeats, report = session.server(OURS), session.options.repeats, session.report
    fresh = session.prompts().prompt
    alone: list[float] = []
    beside: list[float] = []
    steps: list[float] = []
    for repeat in range(repeats):
        say(f"{TYPISTS} typists, alone and beside {MANY}-step pictures")
        crowds = [crowd_of(session, running, "latest", TYPISTS, repeat) for _ in range(2)]
        alone.append(prompt_age_p95(watch(crowds[0])))
        before = counters(running)
        outcome, _ = asyncio.run(_beside(running, crowds[1], MANY, fresh))
        beside.append(prompt_age_p95(outcome))
        steps.append(mean_step(before, counters(running)))
    shift, step = median(beside) - median(alone), median(steps)
    name = f"mixed.steps_{MANY}"
    report.add(f"{name}.typists_alone_prompt_age_p95_ms", 1000 * median(alone), "ms")
    report.add(f"{name}.typists_beside_prompt_age_p95_ms", 1000 * median(beside), "ms")
    report.add(f"{name}.shift_ms", 1000 * shift, "ms")
    report.add(f"{name}.one_step_ms", 1000 * step, "ms")
    report.add(f"{name}.shift_in_steps", shift / step, "x")

    say(f"{TYPISTS} typists beside {FEW}-step pictures")
    before = counters(running)
    crowd = crowd_of(session, running, "latest", TYPISTS, repeats)
    outcome, seconds = asyncio.run(_beside(running, crowd, FEW, fresh))
    after = counters(running)
    name = f"mixed.steps_{FEW}"
    passes, shared = (
        after[f"onestroke_{which}_total"] - before[f"onestroke_{which}_total"]
        for which in ("passes", "mixed_passes")
    )
    report.add(f"{name}.passes", passes, "passes")
    report.add(f"{name}.shared_passes", shared, "passes")
    report.add(f"{name}.pictures", len(seconds), "pictures")
    report.add(f"{name}.p50_ms", 1000 * median(seconds), "ms")
    report.add(f"{name}.typists_prompt_age_p95_ms", 1000 * prompt_age_p95(outcome), "ms")


def prompt_age_p95(outcome: Outcome) -> float:
    """Seconds, over all pictures that came in the window."""
    return percentile(
        [
            shown.age
            for typist in outcome.typists
            for shown in typist.shown
            if outcome.start <= shown.arrived < outcome.end
        ],
        95,
    )


async def _beside(
    running: Running, crowd: Crowd, steps: int, prompts: Callable[[], str]
) -> tuple[Outcome, list[float]]:
    """What the crowd saw, and the seconds of each picture that the app was given meanwhile."""
    seconds: list[float] = []

    async def app() -> None:
        async with Http(running.url) as http:
            while True:
                start = time.perf_counter()
                await http.post("/v1/generate", {"prompt": prompts(), "steps": steps})
                seconds.append(time.perf_counter() - start)

    drawing = asyncio.create_task(app())
    outcome = await asyncio.to_thread(watch, crowd)
    if drawing.done():
        drawing.result()  # raises what ended it
    drawing.cancel()
    await asyncio.gather(drawing, return_exceptions=True)
    return outcome, seconds


def counters(running: Running) -> dict[str, float]:
    """The server's metrics: "name" or 'name{label="value"}' to its value."""
    with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:
        return parse(answer.read().decode())


def parse(exposition: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def mean_step(before: dict[str, float], after: dict[str, float]) -> float:
    """Seconds of one UNet forward between two looks at the counters."""
    return (after[STEP_SUM] - before.get(STEP_SUM, 0)) / (after[STEP_COUNT] - before.get(STEP_COUNT, 0))
