"""Which rows ride the next pass. Pure: rows, fits and limits in, a plan out.

The order of things:
1. The row that has gone longest without service names the batch key (model and size). Bulk counts as
   `HEAD_START` seconds younger, so people who type come first and yet no bulk row starves.
2. Within the key the oldest go first, one row of each tenant before the second row of any.
3. Bulk keeps `bulk_share` of the pass, and at least one row of it, while people type; what is left over is
   anybody's.
4. A pass ends where its predicted time would pass the budget or its UNet rows the largest bucket. The first
   row always rides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from onestroke.scheduling.fits import Fits
from onestroke.scheduling.rows import Lane, Row

HEAD_START = 1.0
"""Seconds by which a keystroke goes before a bulk row of the same age when keys differ."""

SUSPICION = 2.0
"""Seconds by which others go before a row that may have killed its worker."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`budget` in seconds; `slots` bounds the rows that have begun and are not done."""

    max_batch: int
    budget: float
    slots: int
    bulk_share: float = 0.25


@dataclass(slots=True)
class PassPlan:
    """The rows of one pass and why it took no more. A row may stand in all three lists."""

    rows: list[Row] = field(default_factory=list)
    encode: list[Row] = field(default_factory=list)
    decode: list[Row] = field(default_factory=list)
    unet_rows: int = 0
    predicted: float = 0.0
    stop: str = "backlog"

    @property
    def mixed(self) -> bool:
        """Whether rows at different steps share its UNet forward."""
        return len({(row.steps_done, row.request.steps) for row in self.rows}) > 1


def next_pass(
    waiting: Iterable[Row], begun: Iterable[Row], busy: Set[str], fits: Fits, limits: Limits
) -> PassPlan | None:
    """The next pass of a free worker, or None when nothing can run.

    `waiting` are rows that no worker holds yet, `begun` those that this worker holds between two steps, `busy`
    the typing tenants with a begun row on any worker: each has at most one picture in the making. Only ages
    relative to each other matter, so the clock stays outside.
    """
    running = list(begun)
    free_slots = limits.slots - len(running)
    candidates = running + ([row for row in waiting if _may_begin(row, busy)] if free_slots > 0 else [])
    if not candidates:
        return None
    head = min(candidates, key=lambda row: (row.idle_since + _handicap(row), row.id))
    if head.alone:
        return _fill([head], fits, limits, free_slots)
    riders = in_turn(row for row in candidates if row.request.key == head.request.key and not row.alone)
    return _fill(_reserve_bulk(head, riders, fits, limits), fits, limits, free_slots)


def _may_begin(row: Row, busy: Set[str]) -> bool:
    return row.lane is Lane.BULK or row.tenant not in busy


def in_turn(rows: Iterable[Row]) -> list[Row]:
    """Oldest first, one row of each tenant before the second row of any; begun rows keep their turn."""
    turn: dict[str, int] = defaultdict(int)
    ranked: list[tuple[int, float, int, Row]] = []
    for row in sorted(rows, key=lambda row: (not row.begun, row.arrived, row.id)):
        ranked.append((turn[row.tenant], row.arrived, row.id, row))
        turn[row.tenant] += 1
    return [row for *_, row in sorted(ranked, key=lambda entry: entry[:3])]


def _handicap(row: Row) -> float:
    return (HEAD_START if row.lane is Lane.BULK else 0.0) + (SUSPICION if row.alone else 0.0)


def _reserve_bulk(head: Row, riders: Sequence[Row], fits: Fits, limits: Limits) -> list[Row]:
    """The head, bulk's share of the pass, people who type, then the rest of bulk."""
    bulk = [row for row in riders if row.lane is Lane.BULK and row is not head]
    typed = [row for row in riders if row.lane is Lane.INTERACTIVE and row is not head]
    if not typed:
        return [head, *bulk]
    reserved = 0
    while reserved < len(bulk):
        share = _cost(bulk[: reserved + 1], fits)
        if reserved and share > limits.bulk_share * limits.budget:
            break
        reserved += 1
    if limits.bulk_share == 0 or head.lane is Lane.BULK:
        reserved = 0
    return [head, *bulk[:reserved], *typed, *bulk[reserved:]]


def _cost(rows: Sequence[Row], fits: Fits) -> float:
    return fits.predict(
        encode=sum(not row.begun for row in rows),
        step=sum(row.request.unet_rows for row in rows),
        decode=sum(row.steps_left == 1 for row in rows),
    )


def _fill(order: Sequence[Row], fits: Fits, limits: Limits, free_slots: int) -> PassPlan:
    plan = PassPlan()
    for row in order:
        encodes, decodes = not row.begun, row.steps_left == 1
        unet_rows = plan.unet_rows + row.request.unet_rows
        predicted = fits.predict(
            encode=len(plan.encode) + encodes, step=unet_rows, decode=len(plan.decode) + decodes
        )
        if plan.rows and unet_rows > limits.max_batch:
            plan.stop = "batch"
            break
        if plan.rows and predicted > limits.budget:
            plan.stop = "budget"
            break
        if encodes and len(plan.encode) >= free_slots:
            plan.stop = "slots"
            continue
        plan.rows.append(row)
        if encodes:
            plan.encode.append(row)
        if decodes:
            plan.decode.append(row)
        plan.unet_rows, plan.predicted = unet_rows, predicted
    return plan
