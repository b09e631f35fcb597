"""Bare pipelines and single pictures over the wire, in blocks that take turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import latency
from benchmarks.peers import servers
from benchmarks.serving import OURS
from benchmarks.session import Session, say
from benchmarks.statistics import median, percentile

MIN_CALLS = 3


@dataclass(frozen=True, slots=True)
class Block:
    """Repeated calls of one kind: `run(calls)` gives the seconds of each. `n` pictures come of one call.

    `weight` makes a block longer: where the tail is reported, more calls are wanted.
    """

    name: str
    n: int
    run: Callable[[int], list[float]]
    weight: float = 1.0


def measure(session: Session) -> None:
    """Rows of pipelines, HTTP, socket, and what each adds to the bare pipeline."""
    blocks = [*_pipelines(session), *_wires(session)]
    found = take_turns(blocks, session.options.rounds, session.options.block_seconds)
    for block in blocks:
        seconds = found[block.name]
        percents = (50, 95, 99) if block.name in ("http.b1", "socket.b1") else (50,)
        for percent in percents:
            session.report.add(f"{block.name}.p{percent}_ms", 1000 * percentile(seconds, percent), "ms")
        if block.n > 1:
            session.report.add(f"{block.name}.images_per_s", block.n / median(seconds), "images/s")
    for wire in ("http", "socket"):
        session.report.difference(f"overhead.{wire}.p50_ms", f"{wire}.b1.p50_ms", "pipeline.b1.p50_ms")
    if "pipeline" in session.options:
        _stages(session)


def take_turns(blocks: list[Block], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of all calls by block. Blocks of the same `n` follow each other, round after round."""
    found: dict[str, list[float]] = defaultdict(list)
    for n in sorted({block.n for block in blocks}):
        group = [block for block in blocks if block.n == n]
        say(f"batch {n}: {', '.join(block.name for block in group)}")
        calls = {
            block.name: max(MIN_CALLS, round(block.weight * seconds / median(block.run(MIN_CALLS))))
            for block in group
        }
        for _ in range(rounds):
            for block in group:
                found[block.name] += block.run(calls[block.name])
    return found


def _pipelines(session: Session) -> list[Block]:
    def block(name: str, target: str, n: int, what: str = "time") -> Block:
        child = session.child(target)
        return Block(
            name, n, lambda calls: child.ask(what, n=n, calls=calls, stream=session.streams())["seconds"]
        )

    if "pipeline" not in session.options:
        return [block("pipeline.b1", "ours", 1)]
    return [
        *(block(f"pipeline.b{n}", "ours", n) for n in session.options.batches),
        *(block(f"peer.diffusers_eager.b{n}", "diffusers_eager", n) for n in session.options.batches),
        block("cache_hit.pipeline.b1", "ours", 1, "repeat"),
    ]


def _wires(session: Session) -> list[Block]:
    options = session.options
    prompts = session.prompts()
    blocks = []
    if "http" in options or "socket" in options:
        ours, same = session.server(OURS), session.prompts().prompt()
    if "http" in options:
        blocks += [
            Block("http.b1", 1, lambda calls: latency.http_get(ours, prompts.prompt, calls), weight=2),
            Block("cache_hit.http.b1", 1, lambda calls: latency.http_get(ours, lambda: same, calls)),
        ]
    if "socket" in options:
        ours_too = session.server(OURS)
        blocks.append(
            Block("socket.b1", 1, lambda calls: latency.stream(ours_too, prompts.prompt, calls), weight=2)
        )
    for server in servers():
        if server.name in options:
            peer = session.server(server)
            blocks.append(
                Block(
                    f"{server.name}.http.b1",
                    1,
                    lambda calls, peer=peer: latency.http_post(peer, prompts.prompt, calls),  # type: ignore[misc]
                )
            )
    return blocks


def _stages(session: Session) -> None:
    """Where one batch's time goes in ours, for the smallest and the largest batch."""
    batches = session.options.batches
    child = session.child("ours")
    for n in sorted({batches[0], batches[-1]}):
        pooled: dict[str, list[float]] = defaultdict(list)
        for _ in range(session.options.rounds):
            found = child.ask("stages", n=n, calls=MIN_CALLS, stream=session.streams())["seconds"]
            for stage, seconds in found.items():
                pooled[stage] += seconds
        for stage, seconds in pooled.items():
            session.report.add(f"stage.{stage}.b{n}.p50_ms", 1000 * median(seconds), "ms")
