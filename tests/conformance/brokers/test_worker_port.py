"""Test what the worker needs of a broker, on all brokers: with real servers, which are killed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from contract.settings import BrokerKind
from tests.conformance.brokers.broker_cases import (
    LOCK_SECONDS,
    QueueOfTest,
    ids,
    receive,
    wait_until,
)
from tests.conformance.brokers.holding_worker import holding
from worker.brokers.port import LockedMessage, MessageLink
from worker.errors import BrokerUnavailable, LockLost, QueueMissing, ReplyForbidden, Settlement
from worker.processes.history import NO_HISTORY, DeliveryHistory, LockState


def settle(
    link: MessageLink,
    delivery: LockedMessage,
    how: Settlement,
    history: DeliveryHistory | None = None,
) -> None:
    link.settle_message(delivery, how, "a-reason", "a description", history)


def test_messages_arrive_in_order_with_their_content(queue: QueueOfTest) -> None:
    begun_at = datetime.now(UTC)
    queue.send("a", "b", "c")
    link = queue.link()
    found = receive(link, 3)
    assert ids(found) == ["a", "b", "c"]
    assert len({each.token for each in found}) == 3
    for each in found:
        assert each.body == f"body of {each.message_id}".encode()
        assert each.queue == queue.name
        assert each.properties["traceparent"] == "00-ab-cd-01"
        assert (each.delivery_count, each.history) == (0, NO_HISTORY)
        assert each.enqueued_at is not None
        assert abs(each.enqueued_at - begun_at) < timedelta(seconds=60)
        assert 0 < each.lock_seconds(datetime.now(UTC)) <= LOCK_SECONDS + 1
        assert len(each.token) == 16
    assert link.complete_messages(found) == [True] * 3


def test_empty_queue_lets_the_caller_wait(queue: QueueOfTest) -> None:
    link = queue.link()
    begun_at = time.monotonic()
    assert link.receive_messages(1, 0.5) == []
    assert time.monotonic() - begun_at > 0.3


def test_call_for_several_messages_ends_at_its_time_limit(queue: QueueOfTest) -> None:
    link = queue.link()
    assert min(_seconds(lambda: link.receive_messages(8, 0.02, 8)) for _ in range(5)) < 0.15


def test_link_is_open_without_pauses(queue: QueueOfTest) -> None:
    assert min(_seconds(queue.link) for _ in range(5)) < 0.3


def _seconds(call: Callable[[], object]) -> float:
    begun_at = time.monotonic()
    call()
    return time.monotonic() - begun_at


def test_link_receives_no_more_than_the_limit(queue: QueueOfTest) -> None:
    queue.send(*"abcde")
    first, second = queue.link(), queue.link()
    found = receive(first, 2)
    assert ids(found) == ["a", "b"]
    others = receive(second, 3)
    assert sorted(ids(others)) == ["c", "d", "e"]
    assert {each.delivery_count for each in others} == {0}


def test_messages_that_were_not_returned_are_released_uncounted(queue: QueueOfTest) -> None:
    queue.send(*"abcde")
    first, second = queue.link(), queue.link()
    found: list[LockedMessage] = []

    def receive_first() -> bool:
        found.extend(first.receive_messages(1, 0.5, 5))
        return bool(found)

    wait_until(receive_first, "a message")
    first.stop_receiving()
    assert not first.has_credit
    others = receive(second, 5 - len(found))
    assert sorted(ids(found + others)) == [*"abcde"]
    assert {each.delivery_count for each in found + others} == {0}


def test_completed_message_is_not_delivered_again(queue: QueueOfTest) -> None:
    queue.send("a", "b")
    link = queue.link()
    first, second = receive(link, 2)
    settle(link, first, Settlement.COMPLETE)
    settle(link, second, Settlement.COMPLETE)
    link.disconnect()
    assert queue.link().receive_messages(1, 1.0) == []
    assert queue.count() == (0, 0)


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(range(12), id="all"),
        pytest.param(range(5), id="the-oldest"),
        pytest.param(range(1, 12, 2), id="every-second"),
        pytest.param(range(6, 12), id="the-newest"),
    ],
)
def test_completed_range_contains_no_other_message(queue: QueueOfTest, chosen: range) -> None:
    queue.send(*(f"m{number:02}" for number in range(12)))
    link = queue.link()
    found = receive(link, 12)
    assert link.complete_messages([found[number] for number in chosen]) == [True] * len(chosen)
    others = [each for number, each in enumerate(found) if number not in chosen]
    for each in others:
        settle(link, each, Settlement.RELEASE)
    again = receive(queue.link(), len(others)) if others else []
    assert sorted(ids(again)) == ids(others)


def test_released_message_is_not_counted(queue: QueueOfTest) -> None:
    queue.send("a", "b")
    link = queue.link()
    for _ in range(4):
        # RabbitMQ delivers two returned messages, and then one that has waited.
        (found,) = receive(link, 1)
        assert (found.delivery_count, found.history) == (0, NO_HISTORY)
        settle(link, found, Settlement.RELEASE)
    found_again = receive(link, 2)
    assert sorted(ids(found_again)) == ["a", "b"]
    assert {each.delivery_count for each in found_again} == {0}


def test_abandoned_message_is_counted_and_keeps_its_history(queue: QueueOfTest) -> None:
    queue.send("a")
    link = queue.link()
    history = NO_HISTORY
    for number in range(3):
        (found,) = receive(link, 1)
        assert (found.delivery_count, found.history) == (number, history)
        assert found.body == b"body of a"
        assert found.properties["traceparent"] == "00-ab-cd-01"
        history = history.add_failure()
        settle(link, found, Settlement.ABANDON, history)
    (found,) = receive(link, 1)
    settle(link, found, Settlement.ABANDON)
    (found,) = receive(link, 1)
    assert (found.delivery_count, found.history) == (4, history)


def test_dead_letter_has_a_reason_and_a_description(queue: QueueOfTest) -> None:
    queue.send("a")
    link = queue.link()
    (found,) = receive(link, 1)
    settle(link, found, Settlement.DEAD_LETTER)
    wait_until(lambda: queue.count() == (0, 1), "a dead letter")
    letter = queue.take_dead_letter()
    assert (letter.body, letter.message_id) == (b"body of a", "a")
    assert (letter.reason, letter.description) == ("a-reason", "a description")
    assert letter.correlation_id == "for a"
    wait_until(lambda: queue.count() == (0, 0), "no dead letter")


def test_renewed_lock_lasts(queue: QueueOfTest) -> None:
    queue.send("a")
    link, renewing, other = queue.link(), queue.link(), queue.link()
    (found,) = receive(link, 1)
    ends_at = time.monotonic() + LOCK_SECONDS + 2
    while time.monotonic() < ends_at:
        expires_at = renewing.renew_lock(found, 5.0)
        assert expires_at > datetime.now(UTC) + timedelta(seconds=LOCK_SECONDS - 2)
        link.serve()
        assert other.receive_messages(1, 1.0) == []
    settle(link, found, Settlement.COMPLETE)
    assert queue.count() == (0, 0)


def test_lost_lock_settles_nothing(queue: QueueOfTest) -> None:
    queue.send("a", "b")
    link, other = queue.link(), queue.link()
    lost = receive(link, 2)
    if not queue.case.has_lock_time:
        link.disconnect()
        link.connect()
    again = receive(other, 2)
    assert sorted(ids(again)) == ["a", "b"]
    assert {each.delivery_count for each in again} == {1}
    with pytest.raises(LockLost):
        link.renew_lock(lost[0], 5.0)
    for how in (Settlement.COMPLETE, Settlement.ABANDON, Settlement.DEAD_LETTER):
        with pytest.raises(LockLost):
            settle(link, lost[0], how)
    assert link.complete_messages(lost) == [False, False]
    link.forget_token(lost[1])
    assert other.complete_messages(again) == [True, True]
    assert queue.count() == (0, 0)


@pytest.mark.parametrize(
    ("state", "history"),
    [
        pytest.param(LockState.WAITING, DeliveryHistory(waiting_count=1), id="waiting"),
        pytest.param(LockState.RUNNING, DeliveryHistory(running_count=1), id="running"),
        pytest.param(
            LockState.RUNNING_ALONE,
            DeliveryHistory(running_count=1, killed_count=1),
            id="running-alone",
        ),
    ],
)
def test_killed_workers_messages_come_back_with_what_it_did(
    queue: QueueOfTest, state: LockState, history: DeliveryHistory
) -> None:
    queue.send("a", "b")
    with holding(queue, 2, state) as worker:
        worker.kill()
        worker.wait(10)
    begun_at = time.monotonic()
    link = queue.link(has_journals=True)
    found = receive(link, 2)
    assert time.monotonic() - begun_at < LOCK_SECONDS - 1
    assert sorted(ids(found)) == ["a", "b"]
    assert [each.delivery_count for each in found] == [1, 1]
    assert [each.history for each in found] == [history, history]
    assert link.complete_messages(found) == [True, True]


def test_killed_workers_messages_come_back_without_a_journal(queue: QueueOfTest) -> None:
    queue.send("a")
    with holding(queue, 1, LockState.RUNNING) as worker:
        worker.kill()
        worker.wait(10)
    (found,) = receive(queue.link(), 1)
    assert (found.message_id, found.delivery_count) == ("a", 1)


def test_killed_broker_keeps_all_messages(queue: QueueOfTest) -> None:
    queue.send(*"abcd")
    link = queue.link()
    held = receive(link, 2)
    queue.kill_broker()
    with pytest.raises(BrokerUnavailable):
        settle(link, held[0], Settlement.ABANDON)
    assert not link.is_connected
    queue.case.server.start()
    found: dict[str, LockedMessage] = {}

    def receive_rest() -> bool:
        try:
            link.connect()
            for each in link.receive_messages(4, 0.5, 4):
                found[each.message_id] = each
        except BrokerUnavailable:
            return False
        return len(found) == 4

    wait_until(receive_rest, "all messages, also those that were locked")
    assert link.complete_messages([*found.values()]) == [True] * 4
    wait_until(lambda: queue.count() == (0, 0), "an empty queue")


def test_second_message_with_an_id_is_dropped_or_delivered(queue: QueueOfTest) -> None:
    queue.send("a", "a", "b")
    found = receive(queue.link(), 2 if queue.case.drops_duplicates else 3)
    assert ids(found) == (["a", "b"] if queue.case.drops_duplicates else ["a", "a", "b"])


def test_missing_queue_is_an_error(queue: QueueOfTest) -> None:
    link = queue.broker().open_link("missing", LOCK_SECONDS)
    if queue.case.kind is BrokerKind.REDIS:
        pytest.skip("the link makes the queue, because its name is always one of the catalogue")
    with pytest.raises(QueueMissing):
        link.connect()
    assert not link.is_connected


def test_peek_shows_whether_messages_wait(queue: QueueOfTest) -> None:
    link = queue.link()
    assert link.peek(1, 10) == []
    queue.send("a", "b")
    wait_until(lambda: bool(link.peek(1, 10)), "a message")
    first = link.peek(1, 10)[0]
    assert abs(first.enqueued_at - datetime.now(UTC)) < timedelta(seconds=60)
    assert first.sequence_number > 0
    assert ids(receive(link, 2)) == ["a", "b"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a sender stays open
def test_reply_is_sent_to_a_queue(queue: QueueOfTest) -> None:
    broker = queue.broker()
    link = queue.link()
    send = broker.open_sender(queue.name)
    send(b"a reply", "job-1")
    (found,) = receive(link, 1)
    assert (found.body, found.message_id) == (b"a reply", "job-1")
    settle(link, found, Settlement.COMPLETE)
    with pytest.raises(ReplyForbidden):
        broker.open_sender("no-queue")(b"a reply", "job-2")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a sender stays open
def test_reply_is_sent_after_a_restart_of_the_broker(queue: QueueOfTest) -> None:
    send, link = queue.broker().open_sender(queue.name), queue.link()
    send(b"first", "job-1")
    queue.kill_broker()
    with pytest.raises(BrokerUnavailable):
        send(b"second", "job-2")
    queue.case.server.start()

    def is_sent() -> bool:
        try:
            send(b"second", "job-2")
        except BrokerUnavailable:
            return False
        return True

    wait_until(is_sent, "the reply is sent")
    link.disconnect()
    wait_until(lambda: _connects(link), "the link connects")
    assert ids(receive(link, 2)) == ["job-1", "job-2"]


def test_stopped_broker_is_unavailable(queue: QueueOfTest) -> None:
    link = queue.link()
    queue.kill_broker()
    try:
        with pytest.raises(BrokerUnavailable) as caught:
            link.receive_messages(1, 1.0)
        assert not link.is_connected
        with pytest.raises(BrokerUnavailable):
            link.connect()
        assert "guest" not in str(caught.value)
    finally:
        queue.case.server.start()


def _connects(link: MessageLink) -> bool:
    try:
        link.connect()
    except BrokerUnavailable:
        return False
    return True


def test_adapter_has_the_name_of_its_broker(queue: QueueOfTest) -> None:
    names = {
        BrokerKind.SERVICE_BUS: "Service Bus",
        BrokerKind.RABBITMQ: "RabbitMQ",
        BrokerKind.REDIS: "Redis",
    }
    assert queue.broker().name == names[queue.case.kind]
