"""The loop that carries the policy out: rows in, passes to workers, pictures back to whoever waits.

Mechanism only. There is no timer on the way of a row: a pass is planned the moment a worker frees, so the
running pass is the batching window and membership is frozen last. Everything runs on one event loop; workers
answer through `on_reply` and `on_lost`, which must be called on it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from onestroke.core import AdapterUse, GenerationRequest, Picture, Timings
from onestroke.errors import (
    Cancelled,
    DeadlineExceeded,
    OnestrokeError,
    Overloaded,
    Unavailable,
    WireError,
    WorkerDied,
    from_wire,
)
from onestroke.metrics import Metrics
from onestroke.scheduling.adapters import Adapters
from onestroke.scheduling.fits import FitTable
from onestroke.scheduling.link import Link
from onestroke.scheduling.policy import ROUNDING, Limits, PassPlan, next_pass, typists_turn
from onestroke.scheduling.rows import Lane, Row
from onestroke.settings import Settings
from onestroke.workers.messages import (
    AdapterAdded,
    Drop,
    Failed,
    Pass,
    PassDone,
    PictureDone,
    Prepare,
    Progress,
    Ready,
    Reply,
    RowFailed,
)

log = structlog.get_logger(__name__)

HANG_FLOOR = 5.0
HANG_FACTOR = 20.0
ASLEEP = 0.5
"""A timer that fires this many seconds late says that the front did not run meanwhile."""
SLOTS_PER_ROW = 4
"""A worker holds this many begun bulk rows for each row of its largest pass, so that bulk can sit one out."""
CREDIT = 1.0
"""Seconds of waiting, at most, that a typist brings along from before the key."""
FIRST_START_ESTIMATE = 15.0
"""Seconds a worker is thought to need until ready, before one has been seen."""


@dataclass(slots=True, eq=False)
class Ticket:
    """The promise of one picture. Await `picture`; `cancel` when nobody waits any more."""

    row: Row
    picture: asyncio.Future[Picture]
    _cancel: Callable[[Ticket], None]
    timer: asyncio.TimerHandle | None = None

    @property
    def begun(self) -> bool:
        return self.row.begun

    def cancel(self) -> None:
        self._cancel(self)


@dataclass(slots=True)
class RunningPass:
    id: int
    plan: PassPlan
    started: float
    watchdog: asyncio.TimerHandle

    @property
    def ends(self) -> float:
        """When it should be over, by the fits."""
        return self.started + self.plan.predicted


@dataclass(slots=True)
class WorkerState:
    """The scheduler's side of one worker: `held` are all rows that it knows of and that are not answered.

    `bulk_from` is when bulk may go before people who type again, where their batch keys differ.
    """

    link: Link
    started: float
    ready: Ready | None = None
    progress: Progress = field(default_factory=lambda: Progress("starting", 0.0))
    fits: FitTable = field(default_factory=FitTable)
    running: RunningPass | None = None
    held: dict[int, Row] = field(default_factory=dict)
    prepared: set[int] = field(default_factory=set)
    start_seconds: float = FIRST_START_ESTIMATE
    bulk_from: float = 0.0
    fatal: OnestrokeError | None = None
    merged: dict[str, tuple[AdapterUse, ...]] = field(default_factory=dict)
    """The adapters of each model's last pass."""

    def between_steps(self) -> list[Row]:
        return [row for row in self.held.values() if row.begun and row.steps_left > 0]


class Scheduler:
    """Admits rows, plans passes, answers tickets. See the module's docstring."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.draining = False
        """This server leaves: it is not ready any more, and says so."""
        self.closed = False
        """Nothing new is accepted."""
        self.adapters = Adapters(self._until_ready)
        self._loop = asyncio.get_running_loop()
        self._workers: dict[str, WorkerState] = {}
        self._waiting: dict[int, Row] = {}
        self._tickets: dict[int, Ticket] = {}
        self._ids = itertools.count(1)
        self._pass_ids = itertools.count(1)
        self._watchers: set[Callable[[], None]] = set()

    # -- what faces use -------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self._loop.time()

    @property
    def ready(self) -> bool:
        """A picture can be made now."""
        return not self.draining and self._able

    @property
    def accepted(self) -> int:
        """Pictures promised and not yet answered."""
        return len(self._tickets)

    @property
    def fatal(self) -> OnestrokeError | None:
        """Why no worker can ever serve, if that is so."""
        errors = [worker.fatal for worker in self._workers.values()]
        return errors[0] if errors and all(errors) else None

    def progress(self) -> Progress:
        """How far the warm-up of the foremost worker is."""
        if self.ready:
            return Progress("ready", 1.0)
        if self.draining:
            return Progress("draining", 1.0)
        return max((worker.progress for worker in self._workers.values()), key=lambda p: p.fraction,
                   default=Progress("starting", 0.0))  # fmt: skip

    def workers(self) -> list[Ready]:
        return [worker.ready for worker in self._workers.values() if worker.ready]

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever readiness or progress changes; returns what ends it."""
        self._watchers.add(callback)
        return lambda: self._watchers.discard(callback)

    def submit(
        self,
        request: GenerationRequest,
        *,
        lane: Lane,
        tenant: str,
        timeout: float | None = None,
        replaces: Ticket | None = None,
        follows: Ticket | None = None,
    ) -> Ticket:
        """Promise one picture.

        A typing session says which of its tickets this one follows or replaces, so that slow and fast typists
        get the same share: a key is as old as the wait since the session's last picture (CREDIT at most).
        `replaces` is a waiting ticket of the same tenant whose place in time this one inherits; it is answered
        with Cancelled. Raises Unavailable once closed, or while no worker will be ready in time, and
        Overloaded when the backlog is full or the expected wait too long (bulk only: a session was admitted at
        its hello, its keys are superseded and never refused); InvalidRequest for an adapter that is not there.
        """
        now = self.now
        deadline = now + (timeout or self.settings.request_timeout)
        self.adapters.check(request)
        self._check_door(lane, deadline)
        arrived = max(follows.row.served, now - CREDIT) if follows and follows.row.steps_left == 0 else now
        if replaces and not replaces.begun:
            arrived = replaces.row.arrived
            self._finish(replaces.row, Cancelled("superseded by a newer key"))
        row = Row(next(self._ids), request, lane, tenant, arrived, now, deadline)
        ticket = Ticket(row, self._loop.create_future(), self._cancel)
        ticket.timer = self._loop.call_at(deadline, self._expire, row)
        self._tickets[row.id] = ticket
        self._waiting[row.id] = row
        self._dispatch()
        self._prepare_ahead()
        return ticket

    def expected_wait(self) -> float:
        """Seconds until a row accepted now would begin, by the fits."""
        live = [worker for worker in self._workers.values() if worker.ready]
        if not live:
            return min((worker.started + worker.start_seconds - self.now for worker in self._workers.values()),
                       default=0.0)  # fmt: skip
        worker = live[0]
        batch = self.settings.max_batch
        rows = [*self._waiting.values(), *(row for each in live for row in each.between_steps())]
        work = sum(
            worker.fits.of(row.request).work(
                row.steps_left, row.request.unet_rows, batch, row.request.steered_rows
            )
            for row in rows
        )
        left = min(max(0.0, each.running.ends - self.now) if each.running else 0.0 for each in live)
        return left + work / len(live)

    def drain(self) -> None:
        """Begin to leave: unready from now on, so that a balancer sends nothing more."""
        if not self.draining:
            self.draining = True
            self._changed()

    async def drained(self) -> None:
        """Leave in order: unready, and after `drain_notice` seconds, which balancers need to see it, closed.

        Returns when everything accepted is answered, or `drain_timeout` has passed.
        """
        self.drain()
        if not self.closed:
            if notice := self.settings.drain_notice:
                await asyncio.sleep(notice)
            self.closed = True
            self._changed()
        deadline = self.now + self.settings.drain_timeout
        while self._tickets and self.now < deadline:
            pending = [ticket.picture for ticket in self._tickets.values()]
            await asyncio.wait(pending, timeout=deadline - self.now)
        for ticket in list(self._tickets.values()):
            self._finish(ticket.row, Unavailable("the server is shutting down"))

    # -- what workers say -----------------------------------------------------------------------------------

    def on_start(self, link: Link) -> None:
        """A (new incarnation of a) worker has been spawned under this name."""
        known = self._workers.get(link.name)
        self._workers[link.name] = WorkerState(
            link, self.now, start_seconds=known.start_seconds if known else FIRST_START_ESTIMATE
        )

    def on_reply(self, link: Link, reply: Reply) -> None:
        worker = self._workers.get(link.name)
        if worker is None or worker.link is not link:
            return  # an earlier incarnation speaks: what it held has been replayed elsewhere
        match reply:
            case Progress():
                worker.progress = reply
                self._changed()
            case Ready():
                worker.ready = reply
                worker.start_seconds = self.now - worker.started
                worker.fits.observe(reply.samples)
                self.adapters.on_ready(link, reply)
                self._changed()
                self._dispatch()
            case AdapterAdded():
                self.adapters.on_added(link, reply)
            case PassDone():
                self._pass_done(worker, reply)
            case PictureDone():
                self._picture_done(worker, reply)
            case RowFailed():
                if row := worker.held.pop(reply.row, None):
                    self._finish(row, from_wire(reply.error))
            case Failed():
                worker.fatal = from_wire(reply.error)
                self._changed()

    def on_lost(self, link: Link, reason: str) -> None:
        """The worker's process is gone: replay each of its rows once, alone; a second death fails the row."""
        worker = self._workers.get(link.name)
        if worker is None or worker.link is not link:
            return
        if not self.draining:
            log.warning("worker lost", worker=link.name, reason=reason, rows=len(worker.held))
        self.metrics.worker_restarts.labels(reason=reason).inc()
        if worker.running:
            worker.running.watchdog.cancel()
        self.adapters.on_lost(link)
        was_running = set(worker.running.plan.rows) if worker.running else set()
        lost, worker.held, worker.running, worker.ready = list(worker.held.values()), {}, None, None
        worker.started = self.now
        worker.progress = Progress("restarting", 0.0)
        for row in lost:
            if row.alone and row in was_running:
                self._finish(row, from_wire(WireError(WorkerDied.code, f"its worker died twice ({reason})")))
                continue
            alone = row.alone or row in was_running
            row.restart()
            row.alone = alone
            self._waiting[row.id] = row
        self._changed()
        self._refuse_hopeless()
        self._dispatch()

    # -- inside ---------------------------------------------------------------------------------------------

    @property
    def _able(self) -> bool:
        return any(worker.ready for worker in self._workers.values())

    def _check_door(self, lane: Lane, deadline: float) -> None:
        if self.closed:
            self._reject("draining", Unavailable("the server is shutting down", retry_after=1.0))
        if fatal := self.fatal:
            self._reject(
                "model", Unavailable(f"the model cannot be served: {fatal.message}", retry_after=60.0)
            )
        if not self._able and self.now + self._until_ready() > deadline:
            self._reject("not_ready", Unavailable("no worker is ready yet", retry_after=self._until_ready()))
        if lane is Lane.INTERACTIVE:
            return
        wait = self.expected_wait()
        bulk = sum(row.lane is Lane.BULK for row in self._waiting.values())
        if bulk >= self.settings.max_backlog:
            self._reject("backlog", Overloaded("the backlog is full", retry_after=max(1.0, wait)))
        if self._able and wait > self.settings.max_wait:
            over = wait - self.settings.max_wait
            self._reject("wait", Overloaded(f"the expected wait is {wait:.1f} s", retry_after=max(1.0, over)))

    def _reject(self, reason: str, error: OnestrokeError) -> None:
        self.metrics.rejected.labels(reason=reason).inc()
        raise error

    def _prepare_ahead(self) -> None:
        """Tokens, noise and table are made while the device is busy with the pass before.

        Only of as many rows as ride the next pass, the oldest: where many type, most keys are superseded first.
        """
        busy = [worker for worker in self._workers.values() if worker.running]
        if not busy or not self._waiting:
            return
        worker = min(busy, key=lambda each: each.running.ends if each.running else 0.0)
        next_up = heapq.nsmallest(
            self.settings.max_batch, self._waiting.values(), key=lambda row: row.arrived
        )
        if rows := tuple((row.id, row.request) for row in next_up if row.id not in worker.prepared):
            worker.prepared.update(id for id, _ in rows)
            worker.link.send(Prepare(rows))

    def _dispatch(self) -> None:
        for worker in self._workers.values():
            if worker.ready and not worker.running:
                self._start_pass(worker)
        self.metrics.backlog.set(len(self._waiting))

    def _start_pass(self, worker: WorkerState) -> None:
        plan = next_pass(
            self._waiting.values(),
            worker.between_steps(),
            self._busy(),
            worker.fits,
            self._limits,
            bulk_turn=self.now >= worker.bulk_from,
            merged=worker.merged,
        )
        if plan is None:
            return
        now = self.now
        worker.merged[plan.rows[0].request.model] = plan.rows[0].request.adapters
        for row in plan.encode:
            del self._waiting[row.id]
            worker.held[row.id] = row
            row.begun = True
            self.metrics.queue_seconds.labels(lane=row.lane.value).observe(now - row.accepted)
        late = tuple((row.id, row.request) for row in plan.encode if row.id not in worker.prepared)
        if late:
            worker.link.send(Prepare(late))
        self._forget_prepared(plan.encode)
        ids = [tuple(row.id for row in rows) for rows in (plan.encode, plan.rows, plan.decode)]
        due = now + max(HANG_FLOOR, HANG_FACTOR * plan.predicted)
        watchdog = self._loop.call_at(due, self._overdue, worker, due)
        worker.running = RunningPass(next(self._pass_ids), plan, now, watchdog)
        self.metrics.dispatch_stop.labels(reason=plan.stop).inc()
        self.metrics.batch_size.observe(plan.unet_rows)
        worker.link.send(Pass(worker.running.id, plan.rows[0].request.fit, *ids))

    def _overdue(self, worker: WorkerState, due: float) -> None:
        """A pass hangs; unless this very process slept (a frozen container), then its answer may be waiting."""
        if worker.running and self.now - due > ASLEEP:
            again = self.now + HANG_FLOOR
            worker.running.watchdog = self._loop.call_at(again, self._overdue, worker, again)
        else:
            worker.link.kill("hang")

    @property
    def _limits(self) -> Limits:
        rows, budget = self.settings.max_batch, self.settings.pass_budget * ROUNDING
        return Limits(rows, budget, slots=SLOTS_PER_ROW * rows, bulk_share=self.settings.bulk_share)

    def _busy(self) -> set[str]:
        return {
            row.tenant
            for worker in self._workers.values()
            for row in worker.between_steps()
            if row.lane is Lane.INTERACTIVE
        }

    def _forget_prepared(self, rows: list[Row]) -> None:
        """These rows have found their worker: no other needs to keep them ready."""
        for worker in self._workers.values():
            if stale := tuple(row.id for row in rows if row.id in worker.prepared):
                worker.prepared.difference_update(stale)
                if elsewhere := tuple(id for id in stale if id not in worker.held):
                    worker.link.send(Drop(elsewhere))

    def _pass_done(self, worker: WorkerState, reply: PassDone) -> None:
        done = worker.running
        if done is None or done.id != reply.id:
            return
        done.watchdog.cancel()
        worker.running = None
        now = self.now
        worker.fits.observe(reply.samples)
        turn = typists_turn(done.plan, now - done.started, self.settings.bulk_share)
        worker.bulk_from = max(worker.bulk_from, now + turn)
        for row in done.plan.rows:
            row.steps_done += 1
            row.served = now
        unanswered = self._tickets.keys()
        if gone := tuple(row.id for row in done.plan.rows if row.id in worker.held.keys() - unanswered):
            worker.link.send(Drop(gone))
            for id in gone:
                del worker.held[id]
        self._count_pass(done, now, reply)
        self._dispatch()
        self._prepare_ahead()

    def _count_pass(self, done: RunningPass, now: float, reply: PassDone) -> None:
        self.metrics.passes.inc()
        self.metrics.mixed_passes.inc(done.plan.mixed)
        self.metrics.unet_rows.inc(done.plan.unet_rows)
        self.metrics.pass_seconds.observe(now - done.started)
        for sample in reply.samples:
            self.metrics.verb_seconds.labels(verb=sample.verb).observe(sample.seconds)

    def _picture_done(self, worker: WorkerState, reply: PictureDone) -> None:
        row = worker.held.pop(reply.row, None)
        if row is None or row.id not in self._tickets:
            return
        self.metrics.encode_seconds.observe(reply.image)
        self.metrics.pictures.labels(lane=row.lane.value, model=row.request.model).inc()
        inside = reply.encode + reply.step + reply.decode + reply.image
        timings = Timings(
            queue=max(0.0, self.now - row.accepted - inside),
            encode=reply.encode, step=reply.step, decode=reply.decode, image=reply.image,
        )  # fmt: skip
        done = reply.data, reply.truncated, reply.revised_prompt, reply.batch_size
        self._finish(row, Picture(row.request, *done, timings))

    def _finish(self, row: Row, outcome: Picture | OnestrokeError) -> None:
        """Answer a ticket, once; rows that a worker is busy with leave it when their pass ends."""
        ticket = self._tickets.pop(row.id, None)
        if ticket is None:
            return
        if ticket.timer:
            ticket.timer.cancel()
        if self._waiting.pop(row.id, None):
            self._forget_prepared([row])
        if not ticket.picture.done():
            if isinstance(outcome, Picture):
                ticket.picture.set_result(outcome)
            else:
                ticket.picture.set_exception(outcome)
                ticket.picture.exception()  # retrieved: a ticket nobody awaits any more is no news
        for worker in self._workers.values():
            riding = worker.running is not None and row in worker.running.plan.rows
            if row.id in worker.held and not riding and row.steps_left > 0:
                del worker.held[row.id]
                worker.link.send(Drop((row.id,)))

    def _cancel(self, ticket: Ticket) -> None:
        self._finish(ticket.row, Cancelled("cancelled by its caller"))

    def _expire(self, row: Row) -> None:
        self.metrics.rejected.labels(reason="deadline").inc()
        if self._able:
            self._finish(row, DeadlineExceeded("not finished within its time-out"))
        else:
            self._finish(row, Unavailable("no worker became ready in time", retry_after=self._until_ready()))

    def _refuse_hopeless(self) -> None:
        """After a death: what cannot be done before its deadline is answered at once."""
        if self._able:
            return
        until_ready = self._until_ready()
        for row in list(self._waiting.values()):
            if self.now + until_ready > row.deadline:
                self.metrics.rejected.labels(reason="restart").inc()
                self._finish(row, Unavailable("the worker is restarting", retry_after=until_ready))

    def _until_ready(self) -> float:
        return max(1.0, self.expected_wait())

    def _changed(self) -> None:
        self.metrics.ready.set(self.ready)
        for callback in list(self._watchers):
            callback()
