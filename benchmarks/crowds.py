"""People who type at servers: ours and its peers take turns, window after window."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict

from benchmarks.children import ChildFailed, Tail, end, spawn
from benchmarks.serving import NAIVE, OURS, Running
from benchmarks.session import Session, say
from benchmarks.statistics import TypistFigures, median, typist_figures
from benchmarks.typists import Crowd, Outcome, parse
from benchmarks.wire import Http

WARM_UP = 1.5
"""Seconds of typing before a window."""
MOST_IN_TURN = 16
"""Typists who send every key to a server that answers in turn: more leave a backlog of many minutes."""

FIGURES = {
    "images_per_s": ("images_per_s", 1, "images/s"),
    "prompt_age_p50_ms": ("prompt_age_p50", 1000, "ms"),
    "prompt_age_p95_ms": ("prompt_age_p95", 1000, "ms"),
    "screen_age_p50_ms": ("screen_age_p50", 1000, "ms"),
    "screen_age_p95_ms": ("screen_age_p95", 1000, "ms"),
    "fairness": ("fairness", 1, "x"),
    "superseded_share": ("superseded_share", 1, "share"),
}
"""Rows of a crowd: the field of TypistFigures, what it is multiplied by, and the unit."""


def measure(session: Session) -> None:
    """`typists.N.*` are latest-wins clients, `typists.open_loop.N.*` send every key; peers' rows begin with
    their names. The figures are medians over the windows."""
    options = session.options
    jobs: list[tuple[Running, str]] = []
    if "typists" in options:
        ours = session.server(OURS)
        jobs += [(ours, "latest"), (ours, "open")]
    jobs += [(session.server(server), "latest") for server in session.peers]
    found: dict[str, list[TypistFigures]] = defaultdict(list)
    for n in options.typists:
        for repeat in range(options.repeats):
            for running, kind in jobs:
                found[prefix(running, kind, n)].append(window(session, running, kind, n, repeat))
    if NAIVE in session.peers:
        # Last, because its backlog outlives the window: it answers everybody in turn, however late.
        naive = session.server(NAIVE)
        for n in [n for n in options.typists if n <= MOST_IN_TURN]:
            found[prefix(naive, "open", n)].append(window(session, naive, "open", n, 0))
    for name, figures in found.items():
        for row, (field, factor, unit) in FIGURES.items():
            session.report.add(
                f"{name}.{row}", factor * median([getattr(each, field) for each in figures]), unit
            )


def prefix(running: Running, kind: str, typists: int) -> str:
    """Such as "typists.16" or "naive.typists.open_loop.4"."""
    parts = [running.server.name, "typists", "open_loop" if kind == "open" else "", str(typists)]
    return ".".join(part for part in parts if part)


def window(session: Session, running: Running, kind: str, typists: int, repeat: int) -> TypistFigures:
    """One window of `typists` people, in the same rhythm for every server."""
    with running.awake():
        if running.server.transport == "post":
            asyncio.run(_settle(running, session.prompts().prompt()))
        outcome = watch(crowd_of(session, running, kind, typists, repeat))
    figures = typist_figures(outcome.typists, outcome.start, outcome.end)
    say(
        f"{prefix(running, kind, typists)}: {figures.images_per_s:.1f} images/s, prompt age p95 "
        f"{1000 * figures.prompt_age_p95:.0f} ms, fairness {figures.fairness:.2f}, {outcome.errors} errors, "
        f"client {100 * outcome.client_cpu:.0f}% of a core"
    )
    return figures


def crowd_of(session: Session, running: Running, kind: str, typists: int, repeat: int) -> Crowd:
    """Of people with prompts of their own."""
    options = session.options
    return Crowd(
        url=running.url,
        transport=running.server.transport,
        path=running.server.path,
        kind=kind,
        typists=typists,
        keys_per_second=options.keys_per_second,
        seconds=options.seconds,
        warm_up=WARM_UP,
        seed=options.seed,
        stream=session.streams(typists),
        timing_seed=repeat,
    )


def watch(crowd: Crowd) -> Outcome:
    """Run the client process. Raises ChildFailed."""
    process = spawn(
        [sys.executable, "-m", "benchmarks.typists", json.dumps(asdict(crowd))], stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    errors = Tail(process.stderr)
    try:
        answer = process.stdout.read()
        if process.wait():
            raise ChildFailed(errors.text())
        return parse(json.loads(answer))
    finally:
        end(process)


async def _settle(running: Running, prompt: str) -> None:
    """Returns once a first-in-first-out server has worked off what its last crowd left behind."""
    async with Http(running.url) as http:
        await http.post(running.server.path, {"prompt": prompt})
