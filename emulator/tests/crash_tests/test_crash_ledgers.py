"""Test that the ledgers, which record operations in crash tests, find lost or changed data."""

import pytest

from crash_tests.blob_ledger import ABSENT, BlobLedger, make_content
from crash_tests.functions_crash import CrashOrder, OrchestrationLedger
from crash_tests.message_ledger import (
    ABANDON,
    COMPLETE,
    DEAD_LETTER,
    DEAD_LETTERS,
    DEFER,
    QUEUE,
    FoundMessage,
    MessageLedger,
)

# Messages


def deliver(ledger: MessageLedger, number: int = 1, count: int = 0, at: float = 0.0) -> None:
    ledger.deliver(
        "k", sequence_number=number, delivery_count=count, received_at=at, locked_until=at + 5
    )


@pytest.fixture
def messages() -> MessageLedger:
    ledger = MessageLedger()
    ledger.begin_send("k")
    ledger.confirm_send("k")
    return ledger


def settle(ledger: MessageLedger, settlement: str) -> None:
    ledger.begin_settlement("k", settlement)
    ledger.confirm_settlement("k", settlement)


def found(place: str = QUEUE, state: int = 0, number: int = 1, count: int = 0) -> FoundMessage:
    return FoundMessage("k", place, state, number, count)


def test_completed_message_is_no_violation(
    messages: MessageLedger,
) -> None:
    deliver(messages)
    settle(messages, ABANDON)
    deliver(messages, count=1, at=0.1)
    settle(messages, COMPLETE)
    messages.judge([])
    assert messages.violations == []


def test_missing_message_is_lost(messages: MessageLedger) -> None:
    messages.judge([])
    assert messages.violations == ["message k was acknowledged and is lost (not settled)"]


def test_unacknowledged_completion_may_remove_a_message(
    messages: MessageLedger,
) -> None:
    deliver(messages)
    messages.begin_settlement("k", COMPLETE)
    messages.judge([])
    assert messages.violations == []


def test_delivery_proves_a_completion_failed(
    messages: MessageLedger,
) -> None:
    deliver(messages)
    messages.begin_settlement("k", COMPLETE)
    deliver(messages, count=1, at=6)
    messages.judge([])
    assert len(messages.violations) == 1


@pytest.mark.parametrize("settlement", [COMPLETE, DEAD_LETTER, DEFER])
def test_delivery_after_settlement_is_a_violation(messages: MessageLedger, settlement: str) -> None:
    deliver(messages)
    settle(messages, settlement)
    deliver(messages, count=1, at=6)
    assert messages.violations == [
        f"message k was delivered after its {settlement} was acknowledged"
    ]


def test_completed_message_in_a_queue_is_a_violation(messages: MessageLedger) -> None:
    deliver(messages)
    settle(messages, COMPLETE)
    messages.judge([found()])
    assert messages.violations == ["message k is in the queue after its complete"]


@pytest.mark.parametrize(("number", "count"), [(2, 1), (1, 0)])
def test_changed_numbers_are_violations(messages: MessageLedger, number: int, count: int) -> None:
    deliver(messages)
    settle(messages, ABANDON)
    deliver(messages, number, count, at=1)
    assert len(messages.violations) == 1


def test_delivery_during_a_lock_is_a_violation(
    messages: MessageLedger,
) -> None:
    deliver(messages)
    messages.confirm_renewal("k", 8.0)
    deliver(messages, count=1, at=6)
    assert messages.violations == ["message k was delivered again 2.000 s before its lock ended"]


def test_reused_sequence_number_is_a_violation(
    messages: MessageLedger,
) -> None:
    deliver(messages, number=7)
    messages.begin_send("later")
    messages.confirm_schedule("later", 7)
    assert messages.violations == ["message later got the sequence number 7 after 7 was given out"]


@pytest.mark.parametrize(
    ("settlement", "place", "state"),
    [(DEAD_LETTER, QUEUE, 0), (DEFER, QUEUE, 0), (ABANDON, DEAD_LETTERS, 0), (ABANDON, QUEUE, 1)],
)
def test_state_that_contradicts_settlement_is_a_violation(
    messages: MessageLedger, settlement: str, place: str, state: int
) -> None:
    deliver(messages)
    settle(messages, settlement)
    messages.judge([found(place, state, count=1)])
    assert len(messages.violations) == 1


def test_message_that_exists_twice_is_a_violation(messages: MessageLedger) -> None:
    messages.judge([found(), found(number=2)])
    assert messages.violations == ["message k is in the queues twice"]


# Blobs


@pytest.fixture
def blobs() -> BlobLedger:
    ledger = BlobLedger()
    for version in (1, 2):
        ledger.begin_write("b", version)
        ledger.confirm_write("b", version, f"e{version}")
    return ledger


def test_last_acknowledged_content_is_no_violation(
    blobs: BlobLedger,
) -> None:
    blobs.read("b", make_content("b", 2, 500), "e2")
    blobs.list("", ["b"])
    assert blobs.violations == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        make_content("b", 1, 500),
        make_content("b", 3, 500),
        make_content("b", 2, 500)[:-1],
        make_content("b", 2, 300) + make_content("b", 1, 500)[300:],
        make_content("other", 2, 500),
        b"",
    ],
    ids=["absent", "older", "newer", "cut", "torn", "of another", "empty"],
)
def test_other_content_is_a_violation(blobs: BlobLedger, content: bytes | None) -> None:
    blobs.read("b", content, "e2")
    assert len(blobs.violations) == 1


def test_older_content_after_newer_is_a_violation(
    blobs: BlobLedger,
) -> None:
    blobs.begin_write("b", 3)
    blobs.read("b", make_content("b", 3, 500), "e3")
    assert blobs.violations == []
    blobs.read("b", make_content("b", 2, 500), "e2")
    assert len(blobs.violations) == 1


def test_etag_changed_without_a_write_is_a_violation(blobs: BlobLedger) -> None:
    blobs.read("b", make_content("b", 2, 500), "other")
    assert blobs.violations == ["the ETag of the blob b changed without a write"]


def test_refused_write_needs_an_unacknowledged_one(
    blobs: BlobLedger,
) -> None:
    blobs.begin_write("b", 3)
    blobs.refuse_write("b")
    blobs.read("b", make_content("b", 3, 500), "e3")
    assert blobs.violations == []
    blobs.begin_write("b", 4)
    blobs.refuse_write("b")
    blobs.read("b", make_content("b", 3, 500), "e3")
    assert len(blobs.violations) == 1


@pytest.mark.parametrize("listed", [[], ["a", "b"], ["b", "b"]])
def test_missing_or_extra_blob_is_a_violation(blobs: BlobLedger, listed: list[str]) -> None:
    blobs.list("", listed)
    assert len(blobs.violations) == 1


def test_deleted_blob_that_exists_is_a_violation(blobs: BlobLedger) -> None:
    blobs.begin_write("b", ABSENT)
    blobs.confirm_write("b", ABSENT, None)
    blobs.list("", ["b"])
    blobs.read("b", make_content("b", 2, 500), "e2")
    assert len(blobs.violations) == 2


# Orchestrations


def status(runtime_status: str, *results: str, output: object = None) -> dict[str, object]:
    history = [{"EventType": "TaskCompleted", "Result": result} for result in results]
    return {"runtimeStatus": runtime_status, "output": output, "historyEvents": history}


def completed(*tokens: str, payment: object = None) -> dict[str, object]:
    output = {"payment": payment or {"of": "o"}, "tokens": list(tokens)}
    return status("Completed", *tokens, output=output)


def see(*statuses: dict[str, object] | None) -> list[str]:
    ledger = OrchestrationLedger()
    order = CrashOrder("o", is_started=True)
    for each in statuses:
        ledger.see(order, each)
    return ledger.violations


def test_kept_results_are_no_violation() -> None:
    assert see(status("Running", "a"), completed("a", "b"), completed("a", "b")) == []


@pytest.mark.parametrize(
    "statuses",
    [
        [None],
        [status("Running", "a"), status("Running", "b")],
        [status("Running", "a"), completed("b")],
        [status("Failed", output="reason")],
        [completed("a", payment={"of": "other"})],
        [completed("a"), status("Running", "a")],
        [completed("a"), completed("a", "b")],
    ],
    ids=["unknown", "result", "output", "failed", "event", "running again", "other output"],
)
def test_changed_results_or_status_are_violations(
    statuses: list[dict[str, object] | None],
) -> None:
    assert see(*statuses)
