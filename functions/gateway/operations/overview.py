"""Collect what operators see, and build the documents of the routes under /v1/ops."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import Catalogue, ModelEntry, Priority, queue_of
from contract.heartbeats import ModelState
from contract.messages import format_time
from gateway.brokers.port import MessageCounts, Queues
from gateway.clock import Clock
from gateway.dead_letters.store import DEAD_LETTERS, was_redriven
from gateway.errors import Unavailable
from gateway.jobs.model import Time
from gateway.operations import verdicts
from gateway.operations.housekeeping_runs import HousekeepingRun, read_last_run
from gateway.operations.sums import (
    INTERVAL_SECONDS,
    MinuteSums,
    ProcessSums,
    add_sums,
    as_time,
    merge_minutes,
    quantile,
)
from gateway.operations.tenants import (
    MAX_SHOWN,
    SeenTenant,
    ShownTenant,
    Tenants,
    held_count,
    most_used,
)
from gateway.operations.verdicts import (
    AGES_TEXT,
    HEARTBEATS_TEXT,
    HOUSEKEEPING_TEXT,
    LETTERS_TEXT,
    ROOMS_TEXT,
    SUMS_TEXT,
    TENANTS_TEXT,
    QueueFigures,
    find_reason,
    judge,
    judge_housekeeping,
)
from gateway.queues.estimates import WaitEstimates
from gateway.queues.workers import SeenWorker, WorkerHeartbeats, WorkerState
from gateway.shares.room import RoomState
from gateway.storage.blobs import Blobs
from gateway.storage.decoded_blobs import DecodedBlobs
from gateway.telemetry import KEPT_MINUTES, Histogram, JobCounters, ModelSum, Sums

SOURCE_SECONDS: Final = 2.0
"""How long to wait for one source of figures. Without an answer, the source is unavailable."""

# For how many seconds figures are used before they are read again.
FRESH_SECONDS: Final = 1.0
OLDEST_FRESH_SECONDS: Final = 5.0
LETTERS_FRESH_SECONDS: Final = 15.0

MAX_LETTERS: Final = 500
"""The largest number of dead letters that are counted."""

RATE_MINUTES: Final = 5
"""Rates are means over this number of minutes, including the current minute."""

QUANTILE_MINUTES: Final = 15
"""The quantiles and the verdict on failures use the jobs that ended in this many last minutes."""

DEFAULT_HEARTBEAT_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


class OpsVerdict(TypedDict):
    """A sentence about the state of the system."""

    severity: Annotated[verdicts.Severity, Field(examples=["critical"])]
    model: Annotated[str | None, Field(description="Null if it is about all models.")]
    code: Annotated[
        str,
        Field(
            description="A stable name: " + ", ".join(f"`{code}`" for code in verdicts.VerdictCode)
        ),
    ]
    text: Annotated[str, Field(examples=["classifier: 41 jobs wait, no worker seen for 90 s."])]
    advice: Annotated[str, Field(description="What to do; empty if there is nothing to do.")]


class OpsWaiting(TypedDict):
    """The numbers of messages in a model's queues. An unknown number is null."""

    normal: Annotated[int | None, Field(description="Queued, and held by no worker.")]
    low: Annotated[int | None, Field(description="The same with low priority.")]
    held: Annotated[int, Field(description="In the waiting room, for the tenants' shares.")]
    scheduled: Annotated[int | None, Field(description="To be delivered later.")]
    dead: Annotated[int | None, Field(description="Dead letters that were not redriven.")]


class OpsQuantiles(TypedDict):
    """The median and the 95th percentile of durations, in seconds."""

    p50: float
    p95: float


class OpsReason(TypedDict):
    """A reason why the jobs of a queue wait."""

    code: verdicts.WaitCode
    text: str


class OpsQueue(TypedDict):
    """The figures of one model's queues."""

    model: Annotated[str, Field(examples=["classifier"])]
    queue: str
    waiting: OpsWaiting
    oldest_age_seconds: Annotated[
        float | None,
        Field(description="The age of the oldest job; null if no job waits or if unknown."),
    ]
    in_per_minute: Annotated[
        float, Field(description=f"Accepted jobs per minute, in the last {RATE_MINUTES} minutes.")
    ]
    out_per_minute: Annotated[
        float, Field(description=f"Ended jobs per minute, in the last {RATE_MINUTES} minutes.")
    ]
    wait_seconds: Annotated[
        OpsQuantiles | None,
        Field(
            description="How long jobs that succeeded were queued, in the last "
            f"{QUANTILE_MINUTES} minutes; null without such jobs."
        ),
    ]
    run_seconds: Annotated[
        OpsQuantiles | None, Field(description="How long their batches ran on the device.")
    ]
    reason: Annotated[
        OpsReason | None, Field(description="Why jobs wait; null if none waits or if unknown.")
    ]


class OpsDeviceModel(TypedDict):
    """How many bytes of a device's memory one model uses; null if unknown."""

    name: str
    bytes: int | None


class OpsDevice(TypedDict):
    """A device of a worker. A number of bytes is null if it is unknown or not limited."""

    name: Annotated[str, Field(examples=["cpu"])]
    total_bytes: int | None
    used_bytes: int | None
    models: list[OpsDeviceModel]


class OpsWorkerModel(TypedDict):
    """The state of one model in a worker."""

    name: str
    state: ModelState
    reason: Annotated[str | None, Field(description="Why the model is broken; null if it is not.")]
    load_seconds: float | None
    in_flight: Annotated[int, Field(description="Messages received and not settled.")]
    batch_size: Annotated[int | None, Field(description="Jobs in the last batch.")]
    concurrent_jobs: Annotated[
        int | None,
        Field(description="Jobs that a concurrent model runs now; null for other models."),
    ]
    max_concurrent_jobs: int | None
    streams: Annotated[
        int | None, Field(description="Running jobs with a stream; null if unknown.")
    ]
    loading: Annotated[
        str | None,
        Field(description="What the load of the model does now, if the model says so."),
    ]


class OpsWorker(TypedDict):
    """A worker process, as its last heartbeat describes it."""

    id: Annotated[str, Field(description="The worker's name, as in the timelines of jobs.")]
    version: str
    state: WorkerState
    started_at: Time
    seen_at: Annotated[Time, Field(description="When the last heartbeat was written.")]
    silent_seconds: float
    death: Annotated[str | None, Field(description="How the process died; null if unknown.")]
    devices: list[OpsDevice]
    models: list[OpsWorkerModel]


class OpsFailure(TypedDict):
    """How many jobs of a model failed with one error code in the last hour."""

    model: str
    code: Annotated[str, Field(examples=["inference-failed"])]
    count: int
    last_at: Time


class OpsSource(TypedDict):
    """Whether one source of figures is switched on, and how often it is written."""

    enabled: bool
    interval_seconds: float


class OpsSources(TypedDict):
    """The sources of the figures: the heartbeats of workers, and the counts of jobs.

    Each gateway process counts jobs in each minute, and stores these minute sums in a blob.
    """

    heartbeats: OpsSource
    sums: OpsSource


class OpsOverview(TypedDict):
    """What the system is doing now."""

    at: Time
    verdicts: Annotated[list[OpsVerdict], Field(description="The worst first.")]
    queues: list[OpsQueue]
    tenants: Annotated[
        list[ShownTenant],
        Field(
            description=f"The {MAX_SHOWN} tenants that have used most today, without those that "
            "have no job in the last day."
        ),
    ]
    tenant_count: Annotated[int, Field(description="How many tenants had jobs in the last day.")]
    workers: list[OpsWorker]
    failures: list[OpsFailure]
    sources: OpsSources


class OpsModelSeries(TypedDict):
    """How many jobs one model had in each minute, and how long they waited and ran.

    Each list has one value for each minute. A value is null if it is unknown.
    """

    accepted: list[int]
    succeeded: list[int]
    failed: Annotated[list[int], Field(description="Failed and expired jobs.")]
    waiting: list[int | None]
    wait_p95_seconds: list[float | None]
    run_p95_seconds: list[float | None]


class OpsSeries(TypedDict):
    """The figures of each model, with one value for each of the last minutes.

    The last value is that of the current minute.
    """

    start: Time
    step_seconds: Literal[60]
    models: dict[str, OpsModelSeries]


@dataclass(frozen=True, slots=True)
class Figures:
    """The state of the queues and workers at the time `at`, and counts of jobs before this time.

    The keys of `minutes` are minutes since 1970. `unavailable` has the names of the sources that
    could not be read. The broker has not answered since `silent_since`, or stores no messages
    because of `refusal`.
    """

    at: datetime
    queues: list[QueueFigures]
    tenants: list[SeenTenant]
    workers: list[SeenWorker]
    processes: list[ProcessSums]
    minutes: dict[int, Sums]
    unavailable: list[str]
    silent_since: datetime | None
    refusal: str | None
    last_run: HousekeepingRun | None


class Operations:
    """Reads queues, heartbeats and minute sums, and builds the documents for operators.

    Requests that arrive at the same time share one read of these sources.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - everything that operators see
        self,
        catalogue: Catalogue,
        queues: Queues,
        estimates: WaitEstimates,
        blobs: Blobs,
        counters: JobCounters,
        sums: MinuteSums,
        heartbeats: WorkerHeartbeats,
        tenants: Tenants,
        clock: Clock,
        *,
        has_minute_sums: bool,
    ) -> None:
        self._catalogue = catalogue
        self._queues = queues
        self._estimates = estimates
        self._counters = counters
        self.sums = sums
        self._heartbeats = heartbeats
        self._tenants = tenants
        self._clock = clock
        self._has_minute_sums = has_minute_sums
        self._blobs = blobs
        self._begun_at = clock()
        # The content of each blob is whether the dead letter was redriven.
        self._letters = DecodedBlobs(
            *(blobs, DEAD_LETTERS),
            lambda _, data: was_redriven(data),
            MAX_LETTERS,
        )
        self._dead: tuple[datetime, dict[str, int]] | None = None
        self._oldest: dict[str, tuple[datetime, datetime | None]] = {}
        self._last: Figures | None = None
        self._reading = asyncio.Lock()

    async def overview(self) -> OpsOverview:
        """Return the current state of the system, as numbers and as sentences (verdicts)."""
        figures = await self.read()
        now = figures.at
        has_heartbeats = self._heartbeats.is_enabled
        is_known = has_heartbeats and HEARTBEATS_TEXT not in figures.unavailable
        recent = sum_minutes(figures.minutes, now, QUANTILE_MINUTES)
        beats = [worker.heartbeat.interval_seconds for worker in figures.workers]
        active = [tenant for tenant in figures.tenants if tenant.models]
        found = judge(
            figures.queues,
            figures.workers,
            now,
            has_heartbeats=has_heartbeats,
            unavailable=figures.unavailable,
            broker_name=self._queues.broker_name,
            silent_since=figures.silent_since,
            refusal=figures.refusal,
            others=judge_housekeeping(figures.last_run, self._begun_at, now),
        )
        return {
            "at": format_time(now),
            "verdicts": [
                {
                    "severity": each.severity,
                    "model": each.model,
                    "code": each.code.value,
                    "text": each.text,
                    "advice": each.advice,
                }
                for each in found
            ],
            "queues": [
                self._queue_document(
                    queue,
                    recent.get(queue.model, ModelSum()),
                    find_reason(queue, figures.workers, now) if is_known else None,
                )
                for queue in figures.queues
            ],
            "tenants": [each.document() for each in most_used(active)[:MAX_SHOWN]],
            "tenant_count": len(active),
            "workers": sorted(
                (_worker_document(worker, now) for worker in figures.workers),
                key=lambda worker: (worker["state"] is WorkerState.SILENT, worker["id"]),
            ),
            "failures": _failures(sum_minutes(figures.minutes, now, KEPT_MINUTES)),
            "sources": {
                "heartbeats": {
                    "enabled": has_heartbeats,
                    "interval_seconds": max(beats, default=DEFAULT_HEARTBEAT_SECONDS),
                },
                "sums": {"enabled": self._has_minute_sums, "interval_seconds": INTERVAL_SECONDS},
            },
        }

    async def tenants(self) -> list[SeenTenant]:
        """Return all tenants, sorted by name. Raises Unavailable if their figures are unknown."""
        figures = await self.read(is_fresh=True)
        if TENANTS_TEXT in figures.unavailable:
            raise Unavailable("blobs", f"{TENANTS_TEXT} cannot be read")
        return sorted(figures.tenants, key=lambda tenant: tenant.name)

    async def tenant(self, name: str) -> SeenTenant:
        """Return one tenant with its current settings. Raises Unavailable."""
        found = [each.models for each in await self.tenants() if each.name == name]
        return await self._tenants.describe(name, found[0] if found else {})

    async def series(self, minutes: int) -> OpsSeries:
        """Return the figures of the last minutes, including the current minute."""
        figures = await self.read()
        last = _minute_of(figures.at)
        numbers = range(last - minutes + 1, last + 1)
        return {
            "start": format_time(as_time(numbers[0] * 60)),
            "step_seconds": 60,
            "models": {
                name: _model_series([figures.minutes.get(each, {}).get(name) for each in numbers])
                for name in self._catalogue
            },
        }

    async def read(self, *, is_fresh: bool = False) -> Figures:
        """Return the current figures, which may be FRESH_SECONDS old unless `is_fresh`."""
        async with self._reading:
            last = self._last
            if is_fresh or last is None or not _is_fresh(last.at, self._clock(), FRESH_SECONDS):
                last = self._last = await self._read()
            return last

    async def record_waiting(self, oldest: Mapping[str, datetime | None]) -> None:
        """Record how many messages wait in each model's queues, for the method `series`.

        `oldest` has the time of the oldest message of each queue that could be read; None if it is
        empty. If a model's queues are not empty, or if the broker does not show the oldest message,
        the number comes from the broker.
        """
        now = self._clock()
        self._oldest |= {queue: (now, enqueued_at) for queue, enqueued_at in oldest.items()}
        used: list[ModelEntry] = []
        for model in self._catalogue.values():
            if not self._queues.can_see_oldest or any(
                oldest.get(queue_of(model, priority), now) for priority in Priority
            ):
                used.append(model)
            else:
                self._counters.record_waiting(model.name, 0)
        if not used:
            return
        workers = await _or_default(self._heartbeats.read(), [], HEARTBEATS_TEXT, [])
        rooms = await _or_default(self._tenants.read_rooms(), {}, ROOMS_TEXT, [])
        for model in used:
            normal, low = count_waiting(
                await self._estimates.count(model), count_at_workers(model.name, workers, now)
            )
            if normal is not None and low is not None:
                held = held_count(rooms.get(model.name))
                self._counters.record_waiting(model.name, normal + low + held)

    async def _read(self) -> Figures:
        models = list(self._catalogue.values())
        unavailable: list[str] = []
        workers, rooms, processes, dead, last_run, counts = await asyncio.gather(
            _or_default(self._heartbeats.read(), [], HEARTBEATS_TEXT, unavailable),
            _or_default(self._tenants.read_rooms(), {}, ROOMS_TEXT, unavailable),
            _or_default(self.sums.read(), [self.sums.own], SUMS_TEXT, unavailable),
            _or_default(self._count_letters(), None, LETTERS_TEXT, unavailable),
            _or_default(read_last_run(self._blobs), None, HOUSEKEEPING_TEXT, unavailable),
            asyncio.gather(*map(self._estimates.count, models)),
        )
        ages: list[float | None] = [None] * len(models)
        if self._estimates.silent_since is None:
            reading = asyncio.gather(*map(self._oldest_age, models, counts))
            ages = await _or_default(reading, ages, AGES_TEXT, [])
        now = self._clock()
        running = {
            model.name: count_at_workers(model.name, workers, now)
            if self._heartbeats.is_enabled
            else None
            for model in models
        }
        tenants = await _or_default(
            self._tenants.read(rooms, running), [], TENANTS_TEXT, unavailable
        )
        minutes = merge_minutes(processes)
        found = [
            self._queue_figures(*each, rooms.get(each[0].name), workers, minutes, dead, now)
            for each in zip(models, counts, ages, strict=True)
        ]
        for queue in found:
            if queue.waiting is not None:
                self._counters.record_waiting(queue.model, queue.waiting)
        return Figures(
            *(now, found, tenants, workers, processes, minutes, sorted(unavailable)),
            *(self._estimates.silent_since, await self._queues.find_refusal(), last_run),
        )

    def _queue_figures(  # noqa: PLR0913, PLR0917 - all readings of one model
        self,
        model: ModelEntry,
        counts: Mapping[Priority, MessageCounts | None],
        oldest_age_seconds: float | None,
        room: RoomState | None,
        workers: list[SeenWorker],
        minutes: Mapping[int, Sums],
        dead: Mapping[str, int] | None,
        now: datetime,
    ) -> QueueFigures:
        normal, low = count_waiting(counts, count_at_workers(model.name, workers, now))
        rates = sum_minutes(minutes, now, RATE_MINUTES).get(model.name, ModelSum())
        recent = sum_minutes(minutes, now, QUANTILE_MINUTES).get(model.name, ModelSum())
        elapsed_minutes = _elapsed_minutes(minutes, now)
        known = [count for count in counts.values() if count is not None]
        is_known = len(known) == len(counts)
        age_seconds = None if normal == low == 0 else oldest_age_seconds
        if room is not None and room.oldest is not None:
            age_seconds = max(age_seconds or 0.0, (now - room.oldest).total_seconds())
        return QueueFigures(
            model=model.name,
            normal=normal,
            low=low,
            held=held_count(room),
            scheduled=sum(count.scheduled for count in known) if is_known else None,
            dead=None
            if dead is None
            else sum(dead.get(queue_of(model, priority), 0) for priority in Priority)
            + sum(count.dead for count in known),
            oldest_age_seconds=age_seconds,
            in_per_minute=round(rates.accepted / elapsed_minutes, 2),
            out_per_minute=round(rates.ended / elapsed_minutes, 2),
            ended_count=recent.ended,
            failed_count=recent.failed.total() + recent.expired,
            answered_seconds=self._estimates.answered_seconds(model.name),
        )

    def _queue_document(
        self, queue: QueueFigures, recent: ModelSum, reason: verdicts.WaitReason | None
    ) -> OpsQueue:
        age = queue.oldest_age_seconds
        return {
            "model": queue.model,
            "queue": self._catalogue.model(queue.model).queue,
            "waiting": {
                "normal": queue.normal,
                "low": queue.low,
                "held": queue.held,
                "scheduled": queue.scheduled,
                "dead": queue.dead,
            },
            "oldest_age_seconds": None if age is None else round(age, 3),
            "in_per_minute": queue.in_per_minute,
            "out_per_minute": queue.out_per_minute,
            "wait_seconds": _quantiles(recent.wait),
            "run_seconds": _quantiles(recent.run),
            "reason": None if reason is None else {"code": reason.code, "text": reason.text},
        }

    async def _oldest_age(
        self, model: ModelEntry, counts: Mapping[Priority, MessageCounts | None]
    ) -> float | None:
        """Return the age of a model's oldest message; None if there is none, or if unknown."""
        used = [priority for priority, count in counts.items() if count is None or count.active]
        names = [queue_of(model, priority) for priority in used]
        found = await asyncio.gather(*map(self._oldest_message, names))
        times = [enqueued_at for enqueued_at in found if enqueued_at is not None]
        if not times:
            return None
        return max(0.0, (self._clock() - min(times)).total_seconds())

    async def _oldest_message(self, queue: str) -> datetime | None:
        now = self._clock()
        known = self._oldest.get(queue)
        if known is not None and _is_fresh(known[0], now, OLDEST_FRESH_SECONDS):
            return known[1]
        try:
            found = await self._queues.oldest(queue)
        except Unavailable as error:
            _log.info("queue %s: the oldest message cannot be read: %s", queue, error)
            found = None
        self._oldest[queue] = (now, found)
        return found

    async def _count_letters(self) -> dict[str, int]:
        """Return, for each queue, the number of its dead letters that were not redriven."""
        now = self._clock()
        if self._dead is not None and _is_fresh(self._dead[0], now, LETTERS_FRESH_SECONDS):
            return self._dead[1]
        letters = await self._letters.read()
        names = [blob.name for blob, is_redriven in letters if not is_redriven]
        found = Counter(name.removeprefix(DEAD_LETTERS).partition("/")[0] for name in names)
        self._dead = (now, found)
        return found


def sum_minutes(minutes: Mapping[int, Sums], now: datetime, count: int) -> Sums:
    """Return the sums of the last `count` minutes, including the current minute."""
    last = _minute_of(now)
    total: Sums = {}
    for minute, sums in minutes.items():
        if last - count < minute <= last:
            add_sums(total, sums)
    return total


def count_waiting(
    counts: Mapping[Priority, MessageCounts | None], held: int
) -> tuple[int | None, int | None]:
    """Return the numbers of messages of normal and of low priority that no worker holds.

    The counts include the `held` messages, of which as many as possible have normal priority,
    because workers receive these first. A number is None if it is unknown.
    """
    normal, low = counts[Priority.NORMAL], counts[Priority.LOW]
    low_held = max(0, held - normal.active) if normal is not None else 0
    return (
        None if normal is None else max(0, normal.active - held),
        None if low is None else max(0, low.active - low_held),
    )


def count_at_workers(model: str, workers: list[SeenWorker], now: datetime) -> int:
    """Return how many messages of the model are in flight in live workers."""
    return sum(
        beat.in_flight
        for worker in workers
        if not worker.is_silent(now)
        for beat in worker.heartbeat.models
        if beat.name == model
    )


async def _or_default(reading: Awaitable[T], default: T, what: str, unavailable: list[str]) -> T:
    try:
        async with asyncio.timeout(SOURCE_SECONDS):
            return await reading
    except (Unavailable, TimeoutError) as error:
        _log.warning("%s cannot be read: %s", what, str(error) or "no answer")
        unavailable.append(what)
        return default


def _minute_of(now: datetime) -> int:
    return int(now.timestamp() // 60)


def _is_fresh(at: datetime, now: datetime, seconds: float) -> bool:
    return timedelta(0) <= now - at <= timedelta(seconds=seconds)


def _quantiles(histogram: Histogram) -> OpsQuantiles | None:
    p50, p95 = quantile(histogram, 0.5), quantile(histogram, 0.95)
    if p50 is None or p95 is None:
        return None
    return {"p50": round(p50, 4), "p95": round(p95, 4)}


def _elapsed_minutes(minutes: Mapping[int, Sums], now: datetime) -> float:
    """Return RATE_MINUTES, or less if no job was counted before."""
    at = now.timestamp()
    current = int(at // 60)
    first = min((minute for minute in minutes if minute > current - RATE_MINUTES), default=current)
    return max(1.0, current - first + at % 60 / 60)


def _worker_document(worker: SeenWorker, now: datetime) -> OpsWorker:
    beat = worker.heartbeat
    return {
        "id": beat.worker,
        "version": beat.version,
        "state": worker.state(now),
        "started_at": format_time(beat.started_at),
        "seen_at": format_time(worker.seen_at),
        "silent_seconds": round(worker.silent_seconds(now), 1),
        "death": worker.death,
        "devices": [
            {
                "name": beat.device,
                "total_bytes": beat.total_bytes,
                "used_bytes": beat.used_bytes,
                "models": [
                    {"name": model.name, "bytes": model.device_bytes}
                    for model in beat.models
                    if model.state is ModelState.LOADED or model.device_bytes
                ],
            }
        ],
        "models": [
            {
                "name": model.name,
                "state": model.state,
                "reason": ": ".join(filter(None, (model.code, model.reason))) or None,
                "load_seconds": model.load_seconds,
                "in_flight": model.in_flight,
                "batch_size": model.batch_size,
                "concurrent_jobs": model.concurrent_jobs,
                "max_concurrent_jobs": model.max_concurrent_jobs,
                "streams": model.streams,
                "loading": model.loading,
            }
            for model in beat.models
        ],
    }


def _failures(sums: Sums) -> list[OpsFailure]:
    found: list[OpsFailure] = []
    for model, each in sums.items():
        counts = each.failed + Counter(expired=each.expired)
        found += [
            {
                "model": model,
                "code": code,
                "count": count,
                "last_at": format_time(as_time(each.failed_at_seconds.get(code, 0.0))),
            }
            for code, count in counts.items()
        ]
    return sorted(found, key=lambda failure: (-failure["count"], failure["model"], failure["code"]))


def _model_series(minutes: list[ModelSum | None]) -> OpsModelSeries:
    sums = [each or ModelSum() for each in minutes]
    return {
        "accepted": [each.accepted for each in sums],
        "succeeded": [each.succeeded for each in sums],
        "failed": [each.failed.total() + each.expired for each in sums],
        "waiting": _fill_zeros([each.waiting for each in sums]),
        "wait_p95_seconds": [_rounded(quantile(each.wait, 0.95)) for each in sums],
        "run_p95_seconds": [_rounded(quantile(each.run, 0.95)) for each in sums],
    }


def _fill_zeros(counts: list[int | None]) -> list[int | None]:
    """Replace each None after a 0, because only the first count of an empty queue is recorded."""
    filled: list[int | None] = []
    for count in counts:
        is_still_empty = count is None and filled and filled[-1] == 0
        filled.append(0 if is_still_empty else count)
    return filled


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
