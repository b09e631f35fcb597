"""Which rows ride the next pass. Pure: rows, fits and limits in, a plan out.

The order of things:
1. The row that has gone longest without service names the batch key, and with it the fits. People who type come
   first, and bulk when it is its turn (see `typists_turn`): so neither starves behind another key. A row that wants
   other adapters than its model has merged counts as `PATIENCE` switches younger: at worst a sixth of the time is
   spent switching, and nobody waits longer for it than that.
2. Within the key the oldest go first, one row of each tenant before the second row of any.
3. Bulk keeps `bulk_share` of the pass, and at least one row of it, while people type; what is left over is
   anybody's.
4. A pass ends where its predicted time would pass the budget or its UNet rows the largest bucket. The first
   row always rides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from onestroke.core import AdapterUse
from onestroke.scheduling.fits import Fits, FitTable
from onestroke.scheduling.rows import Lane, Row

LEAST_SHARE = 0.05
"""Bulk's share of the device's time beside people who type with another key, where `bulk_share` gives it less."""

PATIENCE = 5.0
"""Switches' worth of time by which rows of the adapters that are merged go before the others."""

SUSPICION = 2.0
"""Seconds by which others go before a row that may have killed its worker."""

ROUNDING = 1.001
"""A pass that is predicted to take its budget to the last digit fits into it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`budget` in seconds, 0: the knee of what runs; `slots` bounds the bulk rows begun and not done."""

    max_batch: int
    budget: float
    slots: int
    bulk_share: float = 0.25

    def settled(self, fits: Fits) -> Limits:
        """With the budget that suits `fits` where none was given."""
        return self if self.budget else replace(self, budget=fits.knee(self.max_batch) * ROUNDING)


@dataclass(slots=True)
class PassPlan:
    """The rows of one pass and why it took no more. A row may stand in all three lists."""

    rows: list[Row] = field(default_factory=list)
    encode: list[Row] = field(default_factory=list)
    decode: list[Row] = field(default_factory=list)
    unet_rows: int = 0
    steered_rows: int = 0
    predicted: float = 0.0
    stop: str = "backlog"

    @property
    def mixed(self) -> bool:
        """Whether rows at different steps share its UNet forward."""
        return len({(row.steps_done, row.request.steps_taken) for row in self.rows}) > 1


def next_pass(
    waiting: Iterable[Row],
    begun: Iterable[Row],
    busy: Set[str],
    table: FitTable,
    limits: Limits,
    *,
    bulk_turn: bool = False,
    merged: Mapping[str, tuple[AdapterUse, ...]] = MappingProxyType({}),
) -> PassPlan | None:
    """The next pass of a free worker, or None when nothing can run.

    `waiting` are rows that no worker holds yet, `begun` those that this worker holds between two steps, `busy`
    the typing tenants with a begun row on any worker: each has at most one picture in the making. Only ages
    relative to each other matter, so the clock stays outside. `bulk_turn` says that bulk goes before people who
    type where their keys differ. `merged` are the adapters that each model's last pass had.
    """
    running = list(begun)
    free_slots = limits.slots - sum(row.lane is Lane.BULK for row in running)
    candidates = running + [row for row in waiting if _may_begin(row, busy, free_slots)]
    if not candidates:
        return None
    first = Lane.BULK if bulk_turn else Lane.INTERACTIVE

    def switch(row: Row) -> float:
        """Seconds until what it wants is merged."""
        stays = row.request.adapters == merged.get(row.request.model, ())
        return 0.0 if stays else table.of(row.request).predict(switch=1)

    def turn(row: Row) -> tuple[bool, float, int]:
        return row.lane is not first, row.idle_since + _handicap(row) + PATIENCE * switch(row), row.id

    head = min(candidates, key=turn)
    fits = table.of(head.request)
    limits = limits.settled(fits)
    if head.alone:
        return _fill([head], fits, limits, free_slots)
    riders = in_turn(row for row in candidates if row.request.key == head.request.key and not row.alone)
    plan = _fill(_reserve_bulk(head, riders, fits, limits), fits, limits, free_slots)
    plan.predicted += switch(head)
    return plan


def typists_turn(plan: PassPlan, seconds: float, bulk_share: float) -> float:
    """Seconds after a pass that took `seconds` during which bulk does not go before people who type.

    After a pass without a typist it is so long that bulk's passes take no more than their share of the time.
    """
    if any(row.lane is Lane.INTERACTIVE for row in plan.rows):
        return 0.0
    return seconds * (1 / max(bulk_share, LEAST_SHARE) - 1)


def _may_begin(row: Row, busy: Set[str], free_slots: int) -> bool:
    """A person needs no slot: each has one row at most."""
    return free_slots > 0 if row.lane is Lane.BULK else row.tenant not in busy


def in_turn(rows: Iterable[Row]) -> list[Row]:
    """Oldest first, one row of each tenant before the second row of any; begun rows keep their turn."""
    turn: dict[str, int] = defaultdict(int)
    ranked: list[tuple[int, float, int, Row]] = []
    for row in sorted(rows, key=lambda row: (not row.begun, row.arrived, row.id)):
        ranked.append((turn[row.tenant], row.arrived, row.id, row))
        turn[row.tenant] += 1
    return [row for *_, row in sorted(ranked, key=lambda entry: entry[:3])]


def _handicap(row: Row) -> float:
    return SUSPICION if row.alone else 0.0


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
        control=sum(row.request.steered_rows for row in rows),
        decode=sum(row.steps_left == 1 for row in rows),
    )


def _fill(order: Sequence[Row], fits: Fits, limits: Limits, free_slots: int) -> PassPlan:
    plan = PassPlan()
    for row in order:
        encodes, decodes = not row.begun, row.steps_left == 1
        unet_rows = plan.unet_rows + row.request.unet_rows
        steered = plan.steered_rows + row.request.steered_rows
        predicted = fits.predict(
            encode=len(plan.encode) + encodes,
            step=unet_rows,
            control=steered,
            decode=len(plan.decode) + decodes,
        )
        if plan.rows and unet_rows > limits.max_batch:
            plan.stop = "batch"
            break
        if plan.rows and predicted > limits.budget:
            plan.stop = "budget"
            break
        if encodes and row.lane is Lane.BULK:
            if free_slots <= 0:
                plan.stop = "slots"
                continue
            free_slots -= 1
        plan.rows.append(row)
        if encodes:
            plan.encode.append(row)
        if decodes:
            plan.decode.append(row)
        plan.unet_rows, plan.steered_rows, plan.predicted = unet_rows, steered, predicted
    return plan
