"""The timeline of a job: where its time went, from its acceptance to its end.

The timeline is computed when a caller requests it, from data that is stored for other purposes:

    the ticket      when the job was accepted and its message sent       the gateway's clock
    the history     when the orchestration began and sent the message    the gateway's clock
    the outcome     the end, and the marks of the delivery that answered   end: the gateway's clock
    the notes       other deliveries, see `contract.deliveries`          the workers' clocks
    the progress    when a long-running job started                      the worker's clock

The durations of the steps always add up to the total time, and none is negative. The total time is
exact, and so are the durations within one worker, which are from a monotonic clock. Only the times
at which the broker and the workers received the message come from their wall clocks. If such a time
is impossible, for example a receipt before the job was accepted, the delivery is moved by the
smallest possible time. Its steps then have `is_adjusted`, and `clock_skew` says by how much the
clock differs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import split_name
from contract.deliveries import DeliveryNote, decode_note
from contract.errors import ContractError
from contract.messages import (
    DeliveryMarks,
    FailureCode,
    format_time,
)
from contract.names import ACTIVITY_ENQUEUE, delivery_notes
from gateway.durable import HistoryEvent
from gateway.jobs.model import (
    JobOutcome,
    JobStatus,
    Record,
    Ticket,
    Time,
    WebhookDelivery,
    is_final,
    job_path,
    marks_of,
)
from gateway.reply_tokens import ReplyTokens
from gateway.storage.blobs import Blobs

MAX_SHOWN_CHILDREN: Final = 100
"""How many child jobs a timeline shows."""

MAX_NOTES: Final = 50
"""How many delivery notes a timeline uses, the newest ones."""

MAX_LOST: Final = 100
"""Of this many last deliveries, a timeline also shows those that no worker has reported."""

_MAX_LISTED_NOTES: Final = 500

# No delivery begins or ends later than three years after its job was accepted.
_LATEST_MS: Final = 1e11

TOLERANCE_MS: Final = 2.0
"""A time counts as adjusted if it was moved by more than the truncation of stored times."""


class StepName(StrEnum):
    """The steps of a job, in their usual order."""

    ACCEPTED = "accepted"
    STARTED = "started"
    ENQUEUED = "enqueued"
    RECEIVED = "received"
    FETCHED = "fetched"
    DECODED = "decoded"
    BATCHED = "batched"
    FIRST_CHUNK = "first_chunk"
    RUN = "run"
    STORED = "stored"
    REPLIED = "replied"
    RETURNED = "returned"
    FINAL = "final"
    NOW = "now"


_MARKS: Final = (
    (StepName.FETCHED, "fetched_ms"),
    (StepName.DECODED, "decoded_ms"),
    (StepName.BATCHED, "batched_ms"),
    (StepName.FIRST_CHUNK, "first_chunk_ms"),
    (StepName.RUN, "ran_ms"),
    (StepName.STORED, "stored_ms"),
    (StepName.REPLIED, "replied_ms"),
)


class DeliveryEnd(StrEnum):
    """The state of a delivery: how it ended, or that it is running, or that its end is unknown."""

    ANSWERED = "answered"
    COMPLETED = "completed"
    RETURNED = "returned"
    ABANDONED = "abandoned"
    DEAD_LETTERED = "dead-lettered"
    LOST = "lost"
    RUNNING = "running"


_ENDS: Final = {
    "complete": DeliveryEnd.COMPLETED,
    "release": DeliveryEnd.RETURNED,
    "abandon": DeliveryEnd.ABANDONED,
    "dead-letter": DeliveryEnd.DEAD_LETTERED,
}


class JobTimelineStep(TypedDict):
    """A step of a job. The durations of all steps add up to the `total_ms` of the timeline."""

    name: Annotated[
        StepName,
        Field(
            description=(
                "`started`: the orchestration; absent if it started after the end. `batched`: the "
                "device took the job. `first_chunk`: the model emitted its first chunk. "
                "`run`: the model returned. `stored`: the result was stored. "
                "`returned`: a worker gave the message back. `now`: the job has not ended."
            )
        ),
    ]
    at: Time
    duration_ms: Annotated[float, Field(ge=0, description="The time since the step before.")]
    share: Annotated[float, Field(ge=0, le=1, description="The part of `total_ms`.")]
    delivery: Annotated[
        int | None, Field(description="The number of the delivery; null outside a worker.")
    ]
    is_beside: Annotated[
        bool, Field(description="Whether the job did not wait for this step. Its duration is 0.")
    ]
    is_adjusted: Annotated[
        bool, Field(description="Whether the time was moved, because clocks differ.")
    ]


class JobTimelineDelivery(TypedDict):
    """One delivery of the job's message to a worker. A null means that the value is unknown."""

    number: Annotated[
        int, Field(ge=1, description="A message that was returned unstarted keeps its number.")
    ]
    state: Annotated[
        DeliveryEnd,
        Field(
            description=(
                "`answered`: its reply ended the job. `completed`: the job was no longer wanted, "
                "or its reply was sent again. `returned`: given back before the job started. "
                "`abandoned`: given back after a failure. `lost`: nothing is known of its end."
            )
        ),
    ]
    worker: str | None
    device: str | None
    batch_size: Annotated[int | None, Field(description="How many jobs were in its batch.")]
    received_at: Time | None
    ended_at: Time | None
    duration_ms: float | None
    reached: Annotated[StepName | None, Field(description="The last step that is known.")]
    code: Annotated[
        str | None, Field(description="The worker's error code.", examples=["not-finished"])
    ]
    traceback: Annotated[
        str | None, Field(description="Of an unexpected error; shown to operators only.")
    ]
    earliest_at: Annotated[
        Time | None, Field(description="If `received_at` is null: it was received after this time.")
    ]
    latest_at: Annotated[
        Time | None, Field(description="If `received_at` is null: it had ended by this time.")
    ]


class ClockSkew(TypedDict):
    """The difference between the gateway's clock and the clock of the broker or of a worker.

    Only the smallest difference that explains the recorded times is known.
    """

    clock: Literal["broker", "worker"]
    worker: str | None
    ahead_ms: Annotated[
        float, Field(description="By how much the clock is ahead; negative if it is behind.")
    ]


class JobTimelineChild(TypedDict):
    """A child job, which the job's model submitted to another model."""

    id: str
    model: str
    status: JobStatus
    total_ms: Annotated[float | None, Field(description="Null if the child has not ended.")]
    link: Annotated[str, Field(description="The path of the child's own timeline.")]


class JobTimelineLinks(TypedDict):
    """The paths of a timeline and of its job."""

    self: str
    job: str


class JobTimeline(TypedDict):
    """The timeline of a job: where its time went, step by step and delivery by delivery."""

    id: Annotated[str, Field(examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])]
    model: str
    version: str
    status: JobStatus
    attempt: Annotated[int, Field(ge=1)]
    accepted_at: Time
    final_at: Annotated[Time | None, Field(description="Null if the job has not ended.")]
    total_ms: Annotated[
        float, Field(ge=0, description="The time from acceptance to the end, or until now.")
    ]
    steps: list[JobTimelineStep]
    deliveries: list[JobTimelineDelivery]
    clock_skew: list[ClockSkew]
    children: list[JobTimelineChild]
    parent: Annotated[str | None, Field(description="The id of the parent job; null if none.")]
    webhook: WebhookDelivery | None
    trace_id: str | None
    links: JobTimelineLinks


@dataclass(frozen=True, slots=True)
class JobEvidence:
    """What is stored about a job, from which its timeline is computed.

    `outcome` is None if the job has not ended, or the outcome's blob was deleted. `notes` are from
    workers, and `children` has the ids and records of the child jobs.
    """

    ticket: Ticket
    record: Record
    outcome: JobOutcome | None
    history: Sequence[HistoryEvent] = ()
    notes: Sequence[DeliveryNote] = ()
    webhook: WebhookDelivery | None = None
    children: Sequence[tuple[str, Record]] = ()


async def read_notes(
    blobs: Blobs, tokens: ReplyTokens, job_id: str, deadline: datetime
) -> list[DeliveryNote]:
    """Return the notes of workers about the last deliveries of a job, in their order.

    The names of the notes' blobs contain a digest of a reply token of the job. Raises Unavailable
    if the blob storage fails.
    """
    names: list[str] = []
    for token in tokens.of_job(job_id, deadline):
        async for blob in blobs.list(delivery_notes(job_id, token)):
            names.append(blob.name)
            if len(names) >= _MAX_LISTED_NOTES:
                break
    notes = []
    for name in names[-MAX_NOTES:]:
        found = await blobs.read(name)
        try:
            if found is not None:
                notes.append(decode_note(found.data))
        except ContractError:
            continue
    return sorted(notes, key=lambda note: (note.attempt, note.marks.received_at))


@dataclass(slots=True)
class _Delivery:
    """What is known about one delivery of a job; no `marks` if no worker reported it.

    If `is_receipt_known` is false, `marks.received_at` is the start of the batch. `begin_ms` and
    `end_ms` are set when the delivery gets its place in the timeline.
    """

    number: int
    marks: DeliveryMarks | None = None
    is_receipt_known: bool = True
    batch_size: int | None = None
    ended_ms: float | None = None
    settlement: str | None = None
    code: str | None = None
    traceback: str | None = None
    is_answer: bool = False
    begin_ms: float | None = None
    end_ms: float | None = None

    @property
    def steps(self) -> list[tuple[StepName, float]]:
        """The known steps after the receipt, with their times in milliseconds since the receipt."""
        found = [(step, getattr(self.marks, name, None)) for step, name in _MARKS]
        return [(step, at_ms) for step, at_ms in found if at_ms is not None]

    @property
    def length_ms(self) -> float:
        """The time from the receipt to the last known step."""
        return max([self.ended_ms or 0.0, *(at_ms for _, at_ms in self.steps)])

    def state(self, *, is_last: bool) -> DeliveryEnd:
        """Return how the delivery ended. `is_last`: the newest one of a job that has not ended."""
        if self.is_answer:
            return DeliveryEnd.ANSWERED
        unknown = DeliveryEnd.RUNNING if is_last and self.settlement is None else DeliveryEnd.LOST
        return _ENDS.get(self.settlement or "", unknown)


class _Line:
    """Builds the steps of a timeline. Times are in milliseconds since the job was accepted."""

    def __init__(self, accepted_at: datetime, end_ms: float) -> None:
        self.accepted_at = accepted_at
        self.end_ms = end_ms
        self.steps: list[JobTimelineStep] = []
        self.skew: list[ClockSkew] = []
        self.position_ms = 0.0

    def ms(self, at: datetime) -> float:
        """Convert a datetime to milliseconds since the job was accepted."""
        return (at - self.accepted_at) / timedelta(milliseconds=1)

    def text(self, at_ms: float) -> str:
        """Convert milliseconds since the job was accepted to a time in RFC 3339 format."""
        return format_time(self.accepted_at + timedelta(milliseconds=min(at_ms, _LATEST_MS)))

    def add(
        self,
        name: StepName,
        at_ms: float,
        delivery: int | None = None,
        *,
        is_moved: bool = False,
    ) -> float:
        """Add a step at the nearest possible time to `at_ms`, and return this time.

        The time is not before the previous step, and not after the end. `is_moved` is true if the
        caller has already adjusted `at_ms`.
        """
        place_ms = round(min(max(at_ms, self.position_ms), self.end_ms), 3)
        duration_ms = round(place_ms - self.position_ms, 3)
        self.steps.append(
            {
                "name": name,
                "at": self.text(place_ms),
                "duration_ms": duration_ms,
                "share": round(duration_ms / self.end_ms, 4) if self.end_ms else 0.0,
                "delivery": delivery,
                "is_beside": False,
                "is_adjusted": is_moved or abs(place_ms - at_ms) > TOLERANCE_MS,
            }
        )
        self.position_ms = place_ms
        return place_ms

    def add_skew(
        self, clock: Literal["broker", "worker"], worker: str | None, ahead_ms: float
    ) -> None:
        """Add the difference between the gateway's clock and another one."""
        self.skew.append({"clock": clock, "worker": worker, "ahead_ms": round(ahead_ms, 3)})


def build_timeline(evidence: JobEvidence, now: datetime) -> JobTimeline:
    """Return the timeline of a job, up to `now` if the job has not ended."""
    ticket, record = evidence.ticket, evidence.record
    accepted_at = datetime.fromisoformat(record["created_at"])
    if is_final(record):
        end_ms = float(record["timing"]["total_ms"])
    else:
        end_ms = max(0.0, round((now - accepted_at) / timedelta(milliseconds=1), 3))
    line = _Line(accepted_at, end_ms)
    deliveries = _deliveries(evidence)
    line.add(StepName.ACCEPTED, 0.0)
    _add_sending(line, evidence, deliveries)
    shown = _add_deliveries(line, deliveries, is_ended=is_final(record))
    line.add(StepName.FINAL if is_final(record) else StepName.NOW, end_ms)
    path = job_path(ticket.job_id)
    model, version = split_name(record["model"])
    return {
        "id": ticket.job_id,
        "model": model,
        "version": version,
        "status": JobStatus(record["status"]),
        "attempt": record["attempt"],
        "accepted_at": line.text(0.0),
        "final_at": line.text(end_ms) if is_final(record) else None,
        "total_ms": round(end_ms, 3),
        "steps": line.steps,
        "deliveries": shown,
        "clock_skew": line.skew,
        "children": [_child(job_id, child) for job_id, child in evidence.children],
        "parent": ticket.parent,
        "webhook": evidence.webhook,
        "trace_id": record["trace_id"],
        "links": {"self": f"{path}/timeline", "job": path},
    }


def _child(job_id: str, record: Record) -> JobTimelineChild:
    return {
        "id": job_id,
        "model": record["model"],
        "status": JobStatus(record["status"]),
        "total_ms": record["timing"]["total_ms"] if is_final(record) else None,
        "link": f"{job_path(job_id)}/timeline",
    }


def _add_sending(line: _Line, evidence: JobEvidence, deliveries: Iterable[_Delivery]) -> None:
    """Add the start of the orchestration, and the arrival of the message in the queue."""
    ticket = evidence.ticket
    started = _find(evidence.history, "ExecutionStarted")
    sent_at = _sent_at(ticket, evidence.history)
    sent_ms = None if sent_at is None else line.ms(sent_at)
    known = [each.marks.enqueued_at for each in deliveries if each.marks is not None]
    broker_at = next((at for at in known if at is not None), None)
    if started is not None and not ticket.is_sent:
        line.add(StepName.STARTED, line.ms(started))
    if broker_at is not None:
        # The gateway sees the broker's confirmation after the broker has taken the message.
        broker_ms = line.ms(broker_at)
        latest_ms = line.end_ms if sent_ms is None else sent_ms
        placed_ms = line.add(
            StepName.ENQUEUED,
            min(broker_ms, latest_ms),
            is_moved=broker_ms > latest_ms + TOLERANCE_MS,
        )
        if abs(broker_ms - placed_ms) > TOLERANCE_MS:
            line.add_skew("broker", None, broker_ms - placed_ms)
    elif sent_ms is not None:
        line.add(StepName.ENQUEUED, sent_ms)
    # The orchestration of a short job starts with the outcome. It is no step on the way to the end.
    if started is not None and ticket.is_sent and (at_ms := line.ms(started)) <= line.end_ms:
        line.steps.append(
            {
                "name": StepName.STARTED,
                "at": line.text(max(0.0, at_ms)),
                "duration_ms": 0.0,
                "share": 0.0,
                "delivery": None,
                "is_beside": True,
                "is_adjusted": at_ms < -TOLERANCE_MS,
            }
        )


def _sent_at(ticket: Ticket, history: Sequence[HistoryEvent]) -> datetime | None:
    if ticket.sent_at is not None:
        return datetime.fromisoformat(ticket.sent_at)
    if ticket.is_sent:
        return _find(history, "ExecutionStarted")
    return _find(history, "TaskCompleted", ACTIVITY_ENQUEUE)


def _find(history: Iterable[HistoryEvent], kind: str, name: str | None = None) -> datetime | None:
    """Return the time of the first event of this kind, and of this name unless it is None."""
    found = (each.at for each in history if each.kind == kind and name in {None, each.name})
    return next(found, None)


def _deliveries(evidence: JobEvidence) -> list[_Delivery]:
    """Return all deliveries of a job in order, including those that no worker reported."""
    found = [
        _Delivery(
            note.attempt,
            note.marks,
            ended_ms=note.ended_ms,
            settlement=note.settlement,
            code=note.code,
            traceback=note.traceback,
        )
        for note in evidence.notes
    ]
    record, outcome = evidence.record, evidence.outcome
    last = max((each.number for each in found), default=0)
    if record["started_at"] is None:
        pass  # no worker has reported the job
    elif not is_final(record) or record["timing"]["inference_ms"] is None:
        found, last = _with_start(found, record), max(last, record["attempt"])
    elif not _is_from_gateway(record, outcome):
        found, last = _with_answer(found, record, outcome), max(last, record["attempt"])
    elif record["error"]["code"] == FailureCode.DEAD_LETTERED:
        last = max(last, record["attempt"])
    known = {each.number for each in found}
    first = max(1, last - MAX_LOST + 1)
    found += [_Delivery(number) for number in range(first, last + 1) if number not in known]
    return sorted(found, key=lambda each: each.number)  # the sort keeps the order of equal numbers


def _is_from_gateway(record: Record, outcome: JobOutcome | None) -> bool:
    """Return whether a gateway created the outcome because no worker replied to the job."""
    code = (record["error"] or {}).get("code")
    return marks_of(outcome) is None and code in {FailureCode.DEAD_LETTERED, FailureCode.EXPIRED}


def _with_answer(
    noted: list[_Delivery], record: Record, outcome: JobOutcome | None
) -> list[_Delivery]:
    """Return the deliveries in `noted`, followed by the delivery that produced the reply.

    A note about the same delivery is left out. Without valid marks in the reply, the times in the
    job's final record describe the delivery.
    """
    timing = record["timing"]
    marks = marks_of(outcome)
    has_marks = marks is not None
    if marks is None:
        # An older worker reports only when its batch began, how long it ran, and when it replied.
        started_at = datetime.fromisoformat(record["started_at"])
        length = datetime.fromisoformat(record["finished_at"]) - started_at
        ran_ms = timing["inference_ms"]
        replied_ms = max(ran_ms, length / timedelta(milliseconds=1))
        marks = DeliveryMarks(started_at, batched_ms=0.0, ran_ms=ran_ms, replied_ms=replied_ms)
    answer = _Delivery(
        record["attempt"],
        marks,
        is_receipt_known=has_marks,
        batch_size=timing["batch_size"],
        is_answer=True,
    )
    same = next((each for each in noted if _is_same(each, answer)), answer)
    answer = replace(answer, traceback=same.traceback)
    return [*(each for each in noted if not _is_same(each, answer)), answer]


def _is_same(noted: _Delivery, answer: _Delivery) -> bool:
    """Return whether a worker's note and the job's outcome describe the same delivery."""
    if noted.number != answer.number or noted.marks is None or answer.marks is None:
        return False
    if not answer.is_receipt_known:
        return noted.settlement in {None, "complete"}
    same = noted.marks.worker == answer.marks.worker
    return same and noted.marks.received_at == answer.marks.received_at


def _with_start(noted: list[_Delivery], record: Record) -> list[_Delivery]:
    """Return the deliveries, with the start time in the record in the one that started the job.

    A missing delivery is added. If its settlement is already known, nothing is changed.
    """
    started_at = datetime.fromisoformat(record["started_at"])
    number = record["attempt"]
    for place, each in enumerate(noted):
        if each.number == number and each.settlement is None and each.marks is not None:
            batched_ms = max(0.0, (started_at - each.marks.received_at) / timedelta(milliseconds=1))
            marks = replace(each.marks, batched_ms=batched_ms)
            return [*noted[:place], replace(each, marks=marks), *noted[place + 1 :]]
    if any(each.number == number for each in noted):
        return noted
    marks = DeliveryMarks(started_at, batched_ms=0.0)
    return [*noted, _Delivery(number, marks, is_receipt_known=False)]


def _add_deliveries(
    line: _Line, deliveries: list[_Delivery], *, is_ended: bool
) -> list[JobTimelineDelivery]:
    """Add the steps of all deliveries to `line`; return the API's object for each delivery."""
    is_answered = False
    for each in deliveries:
        if each.marks is not None:
            _place_delivery(line, each, each.marks, is_beside=is_answered)
        is_answered = is_answered or each.is_answer
    rows = []
    for place, each in enumerate(deliveries):
        is_last = not is_ended and each is deliveries[-1]
        row = _row(line, each, each.state(is_last=is_last))
        if row["received_at"] is None:
            row["earliest_at"], row["latest_at"] = _bounds(line, deliveries, place)
        rows.append(row)
    return rows


def _place_delivery(
    line: _Line, delivery: _Delivery, marks: DeliveryMarks, *, is_beside: bool
) -> None:
    """Find out when a delivery began and ended, and add its steps to `line`.

    If `is_beside` is true, the job did not wait for the delivery, and no steps are added.
    """
    clock_ms = line.ms(marks.received_at)
    # Move the delivery as little as possible, so that it lies between the step before and the end.
    latest_ms = _LATEST_MS if is_beside else line.end_ms - delivery.length_ms
    begin_ms = max(min(clock_ms, latest_ms), line.position_ms if not is_beside else 0.0)
    moved_ms = clock_ms - begin_ms
    is_moved = abs(moved_ms) > TOLERANCE_MS
    if is_moved:
        line.add_skew("worker", marks.worker, moved_ms)
    length_ms = delivery.length_ms if delivery.is_answer else delivery.ended_ms
    end_ms = None if length_ms is None else begin_ms + length_ms
    if not is_beside:
        number = delivery.number
        if delivery.is_receipt_known:
            begin_ms = line.add(StepName.RECEIVED, begin_ms, number, is_moved=is_moved)
        for step, at_ms in delivery.steps:
            line.add(step, begin_ms + at_ms, number, is_moved=is_moved)
        if not delivery.is_answer and end_ms is not None:
            end_ms = line.add(StepName.RETURNED, end_ms, number, is_moved=is_moved)
    delivery.begin_ms, delivery.end_ms = begin_ms, end_ms


def _row(line: _Line, delivery: _Delivery, state: DeliveryEnd) -> JobTimelineDelivery:
    marks, end_ms = delivery.marks, delivery.end_ms
    begin_ms = delivery.begin_ms if delivery.is_receipt_known else None
    length_ms = None
    if begin_ms is not None and end_ms is not None:
        length_ms = round(end_ms - begin_ms, 3)
    reached = [StepName.RECEIVED, *(step for step, _ in delivery.steps)][-1]
    return {
        "number": delivery.number,
        "state": state,
        "worker": marks.worker if marks else None,
        "device": marks.device if marks else None,
        "batch_size": delivery.batch_size,
        "received_at": None if begin_ms is None else line.text(begin_ms),
        "ended_at": None if end_ms is None else line.text(end_ms),
        "duration_ms": length_ms,
        "reached": reached if marks else None,
        "code": delivery.code,
        "traceback": delivery.traceback,
        "earliest_at": None,
        "latest_at": None,
    }


def _bounds(line: _Line, deliveries: Sequence[_Delivery], place: int) -> tuple[str, str]:
    """Return the earliest and the latest possible time of a delivery, from those around it."""
    earliest_ms = 0.0
    for step in line.steps:
        if step["name"] == StepName.ENQUEUED:
            earliest_ms = line.ms(datetime.fromisoformat(step["at"]))
    for each in deliveries[:place]:
        if each.begin_ms is not None:
            earliest_ms = each.begin_ms if each.end_ms is None else each.end_ms
    begins = (each.begin_ms for each in deliveries[place:])
    latest_ms = next((begin_ms for begin_ms in begins if begin_ms is not None), line.end_ms)
    return line.text(earliest_ms), line.text(max(earliest_ms, latest_ms))
