"""Describe in words the state of the system, and the reason why the jobs of a queue wait.

All functions are pure: the time and everything that was read are arguments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import inf
from typing import Final

from contract.heartbeats import ModelHeartbeat, ModelState
from contract.messages import FailureCode, format_time
from gateway.operations.housekeeping_runs import HousekeepingRun
from gateway.queues.workers import SeenWorker, WorkerState

OUT_OF_MEMORY: Final = FailureCode.OUT_OF_MEMORY.value
"""The code with which a worker reports a model that is larger than the device's memory."""

HEARTBEATS_TEXT: Final = "the heartbeats"
SUMS_TEXT: Final = "the minute sums"
ROOMS_TEXT: Final = "the held jobs"
TENANTS_TEXT: Final = "the jobs and the usage of tenants"
LETTERS_TEXT: Final = "the dead letters"
AGES_TEXT: Final = "the ages of the oldest messages"
HOUSEKEEPING_TEXT: Final = "the end of the last housekeeping"

ANSWERED_SECONDS: Final = 12.0
"""A worker that called the gateway less than this time ago is alive, also without heartbeats."""

RESTART_SECONDS: Final = 15 * 60.0
"""For how many seconds a verdict says why a worker process was replaced."""

# A warning is given if the oldest job has waited for longer, if no run of the housekeeping has
# ended well for longer, if at least MANY_WAITING jobs wait and jobs arrive faster than GROWTH times
# the rate at which they end, or if FAILED_SHARE of the jobs, and at least MANY_FAILED, failed.
LONG_WAIT_SECONDS: Final = 60.0
HOUSEKEEPING_LATE: Final = timedelta(hours=1)
MANY_WAITING: Final = 10
GROWTH: Final = 1.2
MANY_FAILED: Final = 5
FAILED_SHARE: Final = 0.5


class Severity(StrEnum):
    """The urgency of the state that a verdict describes. The first member is the most urgent."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    OK = "ok"


class VerdictCode(StrEnum):
    """What a verdict is about. Never rename a code, because clients and alerts compare codes."""

    ALL_WELL = "all-well"
    BACKLOG_GROWS = "backlog-grows"
    DEAD_LETTERS = "dead-letters"
    HEARTBEATS_OFF = "heartbeats-off"
    HOUSEKEEPING_FAILS = "housekeeping-fails"
    JOBS_HELD = "jobs-held"
    LONG_WAIT = "long-wait"
    MANY_FAILURES = "many-failures"
    MODEL_BROKEN = "model-broken"
    NO_HEARTBEATS = "no-heartbeats"
    NO_MEMORY = "no-memory"
    NO_WORKER = "no-worker"
    OTHER_MODEL_RUNS = "other-model-runs"
    QUEUE_UNKNOWN = "queue-unknown"
    SERVICE_UNAVAILABLE = "service-unavailable"
    WORKER_RESTARTED = "worker-restarted"
    WORKER_SILENT = "worker-silent"
    WORKER_STARTING = "worker-starting"


class WaitCode(StrEnum):
    """The reasons why the jobs of a queue may wait."""

    BUSY = "busy"
    MODEL_BROKEN = "model-broken"
    NO_MEMORY = "no-memory"
    NO_WORKER = "no-worker"
    OTHER_MODEL_RUNS = "other-model-runs"
    WORKER_STARTING = "worker-starting"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence about the state of one model, or of the system, and advice on what to do."""

    severity: Severity
    model: str | None
    code: VerdictCode
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class WaitReason:
    """The reason why the jobs of a queue wait, as a code and in words."""

    code: WaitCode
    text: str


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What is known about the queues and the jobs of one model. An unknown number is None.

    `normal` and `low` are numbers of messages that no worker holds, by priority, and `held` is that
    of the jobs in the waiting room. `dead` is the
    number of dead letters that were not redriven. `ended_count` jobs ended in the last 15 minutes,
    of which `failed_count` failed or expired. `answered_seconds` is how long ago a worker of the
    model called this gateway.
    """

    model: str
    normal: int | None = 0
    low: int | None = 0
    held: int = 0
    scheduled: int | None = 0
    dead: int | None = 0
    oldest_age_seconds: float | None = None
    in_per_minute: float = 0.0
    out_per_minute: float = 0.0
    ended_count: int = 0
    failed_count: int = 0
    answered_seconds: float | None = None

    @property
    def waiting(self) -> int | None:
        """How many jobs wait, in the queues and in the waiting room; None if unknown."""
        if self.normal is None or self.low is None:
            return None
        return self.normal + self.low + self.held


def find_reason(
    queue: QueueFigures, workers: Sequence[SeenWorker], now: datetime
) -> WaitReason | None:
    """Return why the jobs of a queue wait; None if no job waits or if the reason is unknown."""
    if not queue.waiting:
        return None
    alive = _serving(queue.model, workers, now)
    if alive:
        return _reason_of_workers(queue.model, alive, now)
    if _answers(queue):
        return None
    return WaitReason(WaitCode.NO_WORKER, _missing_text(queue.model, workers, now))


def _reason_of_workers(
    model: str, alive: Sequence[tuple[SeenWorker, ModelHeartbeat]], now: datetime
) -> WaitReason:
    """Return why jobs wait although the workers in `alive` serve the model."""
    by_state: dict[ModelState, list[tuple[SeenWorker, ModelHeartbeat]]] = {}
    for worker, beat in alive:
        by_state.setdefault(beat.state, []).append((worker, beat))
    if loaded := by_state.get(ModelState.LOADED):
        in_flight = sum(beat.in_flight for _, beat in loaded)
        text = f"{_count(len(loaded), 'worker')} run other jobs first ({in_flight} in flight)"
        return WaitReason(WaitCode.BUSY, text.replace("1 worker run", "1 worker runs"))
    if loading := by_state.get(ModelState.LOADING):
        seconds = (now - max(worker.heartbeat.started_at for worker, _ in loading)).total_seconds()
        text = f"{_count(len(loading), 'worker')} loading the model; the newest has run for "
        return WaitReason(WaitCode.WORKER_STARTING, text + duration_text(max(0.0, seconds)))
    if unloaded := by_state.get(ModelState.UNLOADED):
        return _memory_reason(model, [worker for worker, _ in unloaded])
    if all(beat.code == OUT_OF_MEMORY for _, beat in alive):
        return WaitReason(WaitCode.NO_MEMORY, "the model does not fit into the device's memory")
    problem = _problem_of(alive[0][1])
    return WaitReason(WaitCode.MODEL_BROKEN, f"the model cannot be loaded: {problem}")


def judge(  # noqa: PLR0913 - everything that is judged
    queues: Sequence[QueueFigures],
    workers: Sequence[SeenWorker],
    now: datetime,
    *,
    has_heartbeats: bool = True,
    unavailable: Sequence[str] = (),
    broker_name: str = "The broker",
    silent_since: datetime | None = None,
    refusal: str | None = None,
    others: Iterable[Verdict] = (),
) -> list[Verdict]:
    """Return verdicts (sentences about the state of the system), the most urgent first.

    Without heartbeats, no verdict is about workers. `unavailable` has the sources that could not be
    read. The broker has not answered since `silent_since`, or stores no messages because of
    `refusal`. `others` are verdicts to include.
    """
    found = [(each, 0.0) for each in others]
    if silent_since is not None:
        text = (
            f"{broker_name} does not answer since {format_time(silent_since)}: no queue is known."
        )
        advice = "Jobs are accepted and sent when it answers again. See GET /v1/health/ready."
        silent = Verdict(Severity.CRITICAL, None, VerdictCode.SERVICE_UNAVAILABLE, text, advice)
        found.append((silent, inf))
    elif refusal is not None:
        text = f"{broker_name} stores no new messages: {refusal}."
        advice = "Jobs are accepted and sent when it stores messages again. See the broker's log."
        refused = Verdict(Severity.CRITICAL, None, VerdictCode.SERVICE_UNAVAILABLE, text, advice)
        found.append((refused, inf))
    if unavailable:
        text = f"The blob storage does not respond: {' and '.join(unavailable)} are unknown."
        advice = "See GET /v1/health/ready and the gateway's log."
        failed = Verdict(Severity.CRITICAL, None, VerdictCode.SERVICE_UNAVAILABLE, text, advice)
        found.append((failed, inf))
        has_heartbeats = has_heartbeats and HEARTBEATS_TEXT not in unavailable
    for queue in queues:
        age = queue.oldest_age_seconds or 0.0
        found += [
            (each, age)
            for each in _judge_queue(queue, workers, now, has_heartbeats)
            # One verdict about the broker also explains all queues that are unknown.
            if silent_since is None or each.code is not VerdictCode.QUEUE_UNKNOWN
        ]
    if has_heartbeats:
        found += [(each, 0.0) for each in _judge_workers(queues, workers, now)]
    elif not unavailable:
        text = "Heartbeats are switched off, so the state of the workers is unknown."
        advice = "Set HEARTBEATS of the gateway to true."
        off = Verdict(Severity.INFO, None, VerdictCode.HEARTBEATS_OFF, text, advice)
        found.append((off, 0.0))
    ranks = list(Severity)
    found.sort(key=lambda each: (ranks.index(each[0].severity), -each[1], each[0].model or ""))
    verdicts = [each for each, _ in found]
    not_well = {VerdictCode.NO_WORKER, VerdictCode.WORKER_SILENT}
    if all(each.severity is Severity.INFO and each.code not in not_well for each in verdicts):
        alive = sum(not worker.is_silent(now) for worker in workers)
        waiting = sum(queue.waiting or 0 for queue in queues)
        jobs = _jobs(waiting) if waiting else "no job waits"
        text = f"All is well: {_count(alive, 'worker')}, {jobs}."
        verdicts.append(Verdict(Severity.OK, None, VerdictCode.ALL_WELL, text))
    return verdicts


def _judge_queue(
    queue: QueueFigures, workers: Sequence[SeenWorker], now: datetime, has_heartbeats: bool
) -> Iterable[Verdict]:
    model, waiting = queue.model, queue.waiting
    if waiting is None:
        text = f"{model}: the messages in its queues cannot be counted."
        advice = "See the gateway's log; the gateway needs the access right Manage on the queues."
        yield Verdict(Severity.WARNING, model, VerdictCode.QUEUE_UNKNOWN, text, advice)
    if queue.dead:
        text = f"{model}: {_count(queue.dead, 'dead letter')}."
        advice = "Look at their reasons, remove the cause, then redrive or purge them."
        yield Verdict(Severity.WARNING, model, VerdictCode.DEAD_LETTERS, text, advice)
    if queue.failed_count >= max(MANY_FAILED, FAILED_SHARE * queue.ended_count):
        text = f"{model}: {queue.failed_count} of the last {queue.ended_count} jobs failed."
        advice = "Look at the failures by code, and at the worker's log."
        yield Verdict(Severity.WARNING, model, VerdictCode.MANY_FAILURES, text, advice)
    if queue.held:
        text = f"{model}: {queue.held} of the jobs wait for the shares of their tenants."
        advice = "Nothing: other tenants do not wait for them. See the tenants below."
        yield Verdict(Severity.INFO, model, VerdictCode.JOBS_HELD, text, advice)
    reason = find_reason(queue, workers, now) if has_heartbeats else None
    if waiting:
        if reason is not None and reason.code is not WaitCode.BUSY:
            severity, advice = _SEVERITIES[reason.code], _ADVICE[reason.code]
            text = f"{model}: {_jobs(waiting)}, {reason.text}."
            yield Verdict(severity, model, VerdictCode(reason.code.value), text, advice)
        elif reason is None and has_heartbeats and not _serving(model, workers, now):
            text = f"{model}: {_jobs(waiting)}, and a worker without a heartbeat answers."
            advice = "Set WORKER_HEARTBEAT_SECONDS of the workers to see them."
            yield Verdict(Severity.INFO, model, VerdictCode.NO_HEARTBEATS, text, advice)
        yield from _judge_backlog(queue, waiting, reason)


_ADVICE: Final = {
    WaitCode.NO_WORKER: (
        "Start a worker: ./dev up, or kubectl scale. If workers scale with the queue, a node may "
        "be starting; see the events of the pods."
    ),
    WaitCode.NO_MEMORY: "Use a larger device or fewer models on each device, or wait.",
    WaitCode.OTHER_MODEL_RUNS: "Nothing, or more workers: models take turns on a device.",
    WaitCode.WORKER_STARTING: "Wait until the model is loaded.",
    WaitCode.MODEL_BROKEN: "Repair the model or its weights; the worker tries again by itself.",
}
_SEVERITIES: Final = {
    WaitCode.NO_WORKER: Severity.CRITICAL,
    WaitCode.NO_MEMORY: Severity.WARNING,
    WaitCode.OTHER_MODEL_RUNS: Severity.INFO,
    WaitCode.WORKER_STARTING: Severity.INFO,
    WaitCode.MODEL_BROKEN: Severity.CRITICAL,
}


def _judge_backlog(
    queue: QueueFigures, waiting: int, reason: WaitReason | None
) -> Iterable[Verdict]:
    if reason is not None and reason.code in {WaitCode.NO_WORKER, WaitCode.MODEL_BROKEN}:
        return  # the verdict about the reason also explains the backlog
    arriving, ending = queue.in_per_minute, queue.out_per_minute
    text = f"{queue.model}: {_jobs(waiting)}"
    if waiting >= MANY_WAITING and arriving > GROWTH * ending:
        text += f"; {arriving:.0f} arrive and {ending:.0f} end per minute."
        advice = "Start more workers, or send fewer jobs."
        yield Verdict(Severity.WARNING, queue.model, VerdictCode.BACKLOG_GROWS, text, advice)
    elif (age := queue.oldest_age_seconds) is not None and age > LONG_WAIT_SECONDS:
        text += f", the oldest for {duration_text(age)}."
        advice = "Start more workers, or wait. Jobs of low priority wait while others arrive."
        yield Verdict(Severity.WARNING, queue.model, VerdictCode.LONG_WAIT, text, advice)


def _judge_workers(
    queues: Sequence[QueueFigures], workers: Sequence[SeenWorker], now: datetime
) -> Iterable[Verdict]:
    alive = [worker for worker in workers if not worker.is_silent(now)]
    yield from _judge_restarts(workers, now)
    for worker in workers:
        if worker.is_silent(now) and worker.death is None:
            yield _judge_silent(worker, alive, now)
    for worker in alive:
        yield from _judge_broken(worker, queues)
    idle = [queue for queue in queues if not queue.waiting and not _answers(queue)]
    without = [queue.model for queue in idle if not _serving(queue.model, workers, now)]
    if len(without) == len(queues) and queues:
        text = f"No worker runs{_last_seen(workers, now)}. No job waits."
        advice = "Jobs wait until a worker starts."
        yield Verdict(Severity.INFO, None, VerdictCode.NO_WORKER, text, advice)
        return
    for model in without:
        text = f"{model}: {_missing_text(model, workers, now)}. No job waits."
        advice = "Jobs of this model wait until a worker that serves it starts."
        yield Verdict(Severity.INFO, model, VerdictCode.NO_WORKER, text, advice)


def _judge_restarts(workers: Sequence[SeenWorker], now: datetime) -> Iterable[Verdict]:
    """Return a verdict for each cause for which worker processes died and were replaced."""
    ages: dict[str, list[float]] = {}
    names: dict[str, str] = {}
    for beat in (worker.heartbeat for worker in workers):
        seconds = max(0.0, (now - beat.started_at).total_seconds())
        if beat.death is not None and seconds < RESTART_SECONDS:
            ages.setdefault(beat.death, []).append(seconds)
            names[beat.death] = beat.replaced or ""
    advice = (
        "Its jobs are delivered again. If it repeats, look at the failed jobs of this time and at "
        "the worker's log."
    )
    for death, seconds_ago in ages.items():
        count = len(seconds_ago)
        one, more = f"The worker process {names[death]}", f"{count} worker processes, the last"
        last = duration_text(min(seconds_ago))
        text = f"{one if count == 1 else more} {death} {last} ago, and was replaced."
        yield Verdict(Severity.WARNING, None, VerdictCode.WORKER_RESTARTED, text, advice)


def judge_housekeeping(
    last: HousekeepingRun | None, process_started_at: datetime, now: datetime
) -> Iterable[Verdict]:
    """Yield a verdict if no run of the housekeeping has ended well for an hour.

    An app that did not run for some time gets no verdict until a run should have ended.
    """
    failed = {} if last is None else last.failed
    since = process_started_at if last is None else last.ended_well_at
    if not failed:
        since = max(since, process_started_at)
    if now - since <= HOUSEKEEPING_LATE:
        return
    reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
    age = duration_text((now - since).total_seconds())
    text = f"The housekeeping has not ended well for {age}{': ' if reasons else ''}{reasons:.300}."
    advice = (
        "Expired data is kept until it ends well. See the gateway's log of the function `purge`."
    )
    yield Verdict(Severity.WARNING, None, VerdictCode.HOUSEKEEPING_FAILS, text, advice)


def _judge_silent(worker: SeenWorker, alive: Sequence[SeenWorker], now: datetime) -> Verdict:
    served = {beat.name for other in alive for beat in other.heartbeat.models}
    is_replaced = served.issuperset(beat.name for beat in worker.heartbeat.models)
    severity = Severity.INFO if is_replaced else Severity.WARNING
    age = duration_text(worker.silent_seconds(now))
    replaced = "; other workers serve its models" if is_replaced else ""
    text = f"Worker {worker.heartbeat.worker}: no sign of life for {age}{replaced}."
    advice = "It was killed, or its machine is gone. Its jobs are delivered again."
    return Verdict(severity, None, VerdictCode.WORKER_SILENT, text, advice)


def _judge_broken(worker: SeenWorker, queues: Sequence[QueueFigures]) -> Iterable[Verdict]:
    waiting = {queue.model for queue in queues if queue.waiting}
    name, advice = worker.heartbeat.worker, _ADVICE[WaitCode.MODEL_BROKEN]
    for beat in worker.heartbeat.models:
        # If jobs wait for the model, the verdict about the waiting jobs already says this.
        if beat.state is ModelState.BROKEN and beat.name not in waiting:
            text = f"{beat.name}: worker {name} cannot load the model: {_problem_of(beat)}."
            yield Verdict(Severity.WARNING, beat.name, VerdictCode.MODEL_BROKEN, text, advice)


def _serving(
    model: str, workers: Sequence[SeenWorker], now: datetime
) -> list[tuple[SeenWorker, ModelHeartbeat]]:
    """Return the live workers that serve the model and receive jobs, with their model's state."""
    return [
        (worker, beat)
        for worker in workers
        if worker.state(now) not in {WorkerState.SILENT, WorkerState.DRAINING}
        for beat in worker.heartbeat.models
        if beat.name == model
    ]


def _memory_reason(model: str, workers: Sequence[SeenWorker]) -> WaitReason:
    others = sorted(
        {
            beat.name
            for worker in workers
            for beat in worker.heartbeat.models
            if beat.name != model and beat.state in {ModelState.LOADED, ModelState.LOADING}
        }
    )
    if others:
        text = f"it is the turn of {', '.join(others)} on the device"
        return WaitReason(WaitCode.OTHER_MODEL_RUNS, text)
    return WaitReason(WaitCode.NO_MEMORY, "no device has enough free memory for the model")


def _problem_of(beat: ModelHeartbeat) -> str:
    return ": ".join(filter(None, (beat.code, beat.reason))) or "unknown error"


def _answers(queue: QueueFigures) -> bool:
    return queue.answered_seconds is not None and queue.answered_seconds < ANSWERED_SECONDS


def _missing_text(model: str, workers: Sequence[SeenWorker], now: datetime) -> str:
    those = [
        worker for worker in workers if any(beat.name == model for beat in worker.heartbeat.models)
    ]
    if any(worker.state(now) is WorkerState.DRAINING for worker in those):
        return "its only worker is shutting down"
    return f"no worker seen{_last_seen(those, now)}"


def _last_seen(workers: Sequence[SeenWorker], now: datetime) -> str:
    if not workers:
        return ""
    return f" for {duration_text(min(worker.silent_seconds(now) for worker in workers))}"


def _jobs(count: int) -> str:
    return "1 job waits" if count == 1 else f"{count} jobs wait"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration_text(seconds: float) -> str:
    """Return a duration in words, for example `90 s` or `12 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
