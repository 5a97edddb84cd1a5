"""Strategies for messages between gateway and worker, and one example of each."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from contract.deliveries import DeliveryNote
from contract.messages import (
    DeliveryMarks,
    InlineBytes,
    InlineJson,
    JobError,
    JobReply,
    JobRequest,
    Payload,
    PayloadRef,
    PayloadUrl,
    ReplyQueue,
    ReplyUrl,
    Stage,
    Timing,
    marks_to_json,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
# Times in messages have the precision of a millisecond.
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
PAYLOADS: st.SearchStrategy[Payload] = st.one_of(
    st.builds(InlineBytes, TEXT, st.binary(max_size=200)),
    st.builds(InlineJson, JSON),
    st.builds(
        PayloadRef, TEXT, TEXT, st.integers(0, 2**40), st.from_regex("[0-9a-f]{64}", fullmatch=True)
    ),
    st.builds(PayloadRef, TEXT, TEXT, st.integers(0, 2**40), st.none(), TEXT),
)
ERRORS = st.builds(JobError, TEXT, TEXT, st.sampled_from(Stage), st.booleans())
JOB_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
EXTRA = st.dictionaries(st.from_regex("x_[a-z]{1,10}", fullmatch=True), JSON, max_size=3)
INPUTS = PAYLOADS | st.builds(PayloadUrl, TEXT, st.none() | TEXT)
PAYLOAD_NAMES = st.from_regex("[a-z][a-z0-9_]{0,31}", fullmatch=True)
REQUESTS = st.builds(
    JobRequest,
    job_id=JOB_IDS,
    model=TEXT,
    input=INPUTS,
    created_at=TIMES,
    deadline=TIMES,
    parameters=st.dictionaries(TEXT, JSON, max_size=3),
    reply_to=st.none() | st.builds(ReplyUrl, TEXT) | st.builds(ReplyQueue, TEXT),
    attempt=st.integers(1, 1000),
    extra=EXTRA,
    inputs=st.just({}) | st.dictionaries(PAYLOAD_NAMES, INPUTS, min_size=1, max_size=4),
    stream=st.booleans(),
    operation=st.none() | TEXT,
    batch=st.none() | TEXT,
)
DURATIONS = st.floats(0, 1e9)
NAMES = st.none() | TEXT
MARKS = st.builds(
    DeliveryMarks,
    TIMES,
    st.none() | TIMES,
    NAMES,
    NAMES,
    *[st.none() | DURATIONS] * 7,
    chunks=st.none() | st.integers(0, 10**6),
    stream_lost=st.booleans(),
)
NOTES = st.builds(
    DeliveryNote,
    st.integers(1, 99),
    MARKS,
    st.none() | DURATIONS,
    NAMES,
    NAMES,
    st.none() | st.just("Traceback"),
)
TIMINGS = st.builds(
    Timing, DURATIONS, DURATIONS, st.integers(1, 4096), st.none() | MARKS.map(marks_to_json)
)


def _replies(
    outcomes: st.SearchStrategy[Any], results: st.SearchStrategy[dict[str, Payload]]
) -> st.SearchStrategy[JobReply]:
    return st.builds(
        JobReply,
        job_id=JOB_IDS,
        outcome=outcomes,
        started_at=TIMES,
        finished_at=TIMES,
        timing=TIMINGS,
        attempt=st.integers(1, 1000),
        extra=EXTRA,
        results=results,
    )


# A failed job has no named results.
REPLIES = _replies(PAYLOADS | ERRORS, st.just({})) | _replies(
    PAYLOADS, st.dictionaries(PAYLOAD_NAMES, PAYLOADS, min_size=1, max_size=4)
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUEST = JobRequest(
    job_id="018f",
    model="noop",
    input=InlineBytes("text/plain", b"hello"),
    created_at=NOW,
    deadline=NOW + timedelta(minutes=1),
    reply_to=ReplyUrl("http://127.0.0.1:7071/v1/jobs/018f/reply?token=secret"),
)
REPLY = JobReply("018f", InlineJson({"labels": []}), started_at=NOW, finished_at=NOW)
