"""Bare pipelines and single pictures over the wire, in blocks that take turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import latency
from benchmarks.options import Decoder, Options
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
    options, report = session.options, session.report
    blocks = [*_pipelines(session), *_wires(session)]
    found = take_turns(blocks, options.rounds, options.block_seconds)
    for block in blocks:
        seconds = found[block.name]
        for percent in (50, 95, 99) if block.name.startswith(("http", "socket")) else (50,):
            report.add(f"{block.name}.p{percent}_ms", 1000 * percentile(seconds, percent), "ms")
        if block.n > 1:
            report.add(f"{block.name}.images_per_s", block.n / median(seconds), "images/s")
    for word in (decoder.word for decoder in options.decoders):
        for wire in ("http", "socket"):
            ours, bare = f"{wire}{word}.b1.p50_ms", f"pipeline{word}.b1.p50_ms"
            report.difference(f"overhead.{wire}{word}.p50_ms", ours, bare)
        rates = [block.n / median(found[block.name]) for block in blocks if _is_ours(block, word)]
        if len(rates) > 1:
            report.add(f"pipeline{word}.images_per_s", max(rates), "images/s")
    if "pipeline" in options:
        for decoder in options.decoders:
            _stages(session, decoder)


def _is_ours(block: Block, word: str) -> bool:
    return block.name == f"pipeline{word}.b{block.n}"


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
    def block(name: str, target: str, n: int, decoder: Decoder, what: str = "time") -> Block:
        child = session.child(target, decoder)
        return Block(
            f"{name}.b{n}",
            n,
            lambda calls: child.ask(what, n=n, calls=calls, stream=session.streams())["seconds"],
        )

    options, blocks = session.options, []
    for decoder in options.decoders:
        ours = f"pipeline{decoder.word}"
        if "pipeline" not in options:
            blocks.append(block(ours, "ours", 1, decoder))
        else:
            blocks += [block(ours, "ours", n, decoder) for n in options.batches]
            blocks += [_peer(block, "diffusers_eager", n, decoder, options) for n in options.batches]
        if "compiled" in options:
            blocks += [_peer(block, "diffusers_compiled", n, decoder, options) for n in options.ends]
    if "streamdiffusion" in options:
        blocks += [_peer(block, "streamdiffusion", n, options.main, options) for n in options.batches]
    if "pipeline" in options:
        blocks.append(block(f"cache_hit.pipeline{options.main.word}", "ours", 1, options.main, "repeat"))
    return blocks


def _peer(block: Callable[..., Block], name: str, n: int, decoder: Decoder, options: Options) -> Block:
    word = "" if decoder == options.main else decoder.word
    return block(f"peer.{name}{word}", name, n, decoder)


def _wires(session: Session) -> list[Block]:
    options = session.options
    prompts, same = session.prompts(), session.prompts().prompt()
    fresh: Callable[[], str] = prompts.prompt
    blocks = []
    for decoder in options.decoders:
        for name, call in (("http", latency.http_get), ("socket", latency.stream)):
            if name in options:
                run = partial(call, session.server(OURS, decoder), fresh)
                blocks.append(Block(f"{name}{decoder.word}.b1", 1, run, weight=2))
    if "http" in options:
        run = partial(latency.http_get, session.server(OURS), lambda: same)
        blocks.append(Block(f"cache_hit.http{options.main.word}.b1", 1, run))
    for server in session.peers:
        run = partial(latency.http_post, session.server(server), fresh)
        blocks.append(Block(f"{server.name}.http.b1", 1, run))
    return blocks


def _stages(session: Session, decoder: Decoder) -> None:
    """Where one batch's time goes in ours; of the decoders that are not the main one only decoding."""
    options, child = session.options, session.child("ours", decoder)
    for n in options.ends:
        pooled: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            found = child.ask("stages", n=n, calls=MIN_CALLS, stream=session.streams())["seconds"]
            for stage, seconds in found.items():
                pooled[stage] += seconds
        for stage, seconds in pooled.items():
            name = f"decode_{decoder.name}" if stage == "decode" and decoder.name else stage
            if stage == "decode" or decoder == options.main:
                session.report.add(f"stage.{name}.b{n}.p50_ms", 1000 * median(seconds), "ms")
