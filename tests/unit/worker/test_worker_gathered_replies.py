"""Test which replies one request contains, and that each caller gets its own answer."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.names import MAX_GATHERED_BYTES, MAX_GATHERED_REPLIES
from worker.replies import ReplyGatherer

SECONDS = 10.0


class Requests:
    """A function that sends replies. Each request waits until the test sets `may_end`."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.running = threading.Event()
        self.may_end = threading.Event()
        self.error: Exception | None = None

    def __call__(self, replies: Sequence[str]) -> list[str]:
        self.sent.append(list(replies))
        self.running.set()
        assert self.may_end.wait(SECONDS)
        if self.error is not None:
            raise self.error
        return [reply.upper() for reply in replies]


def wait_for_waiting(gatherer: ReplyGatherer[str, str], count: int) -> None:
    ends_at = time.monotonic() + SECONDS
    while gatherer.waiting_count < count:
        assert time.monotonic() < ends_at


def test_lone_reply_is_sent_at_once() -> None:
    requests = Requests()
    requests.may_end.set()
    gatherer = ReplyGatherer(requests, len, wait_seconds=SECONDS)
    assert [gatherer("a"), gatherer("b")] == ["A", "B"]
    assert requests.sent == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("count", "size_bytes", "sizes"),
    [
        (5, 1, [1, 5]),
        (MAX_GATHERED_REPLIES + 3, 1, [1, MAX_GATHERED_REPLIES, 3]),
        (5, MAX_GATHERED_BYTES // 2, [1, 2, 2, 1]),
        (2, MAX_GATHERED_BYTES + 1, [1, 1, 1]),
    ],
)
def test_waiting_replies_are_sent_together_within_the_limits(
    count: int, size_bytes: int, sizes: list[int]
) -> None:
    requests = Requests()
    gatherer: ReplyGatherer[str, str] = ReplyGatherer(requests, lambda _: size_bytes, SECONDS)
    names = [f"reply {number}" for number in range(count)]
    with ThreadPoolExecutor(count + 1) as threads:
        first = threads.submit(gatherer, "first")
        assert requests.running.wait(SECONDS)
        others = [threads.submit(gatherer, name) for name in names]
        wait_for_waiting(gatherer, count)
        requests.may_end.set()
        assert first.result(SECONDS) == "FIRST"
        assert [each.result(SECONDS) for each in others] == [name.upper() for name in names]
    assert [len(each) for each in requests.sent] == sizes


def test_reply_does_not_wait_long_for_a_slow_request() -> None:
    requests = Requests()
    gatherer = ReplyGatherer(requests, len, wait_seconds=0.01)
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(gatherer, "slow")
        assert requests.running.wait(SECONDS)
        requests.running.clear()
        other = threads.submit(gatherer, "other")
        assert requests.running.wait(SECONDS), "the other reply waits for the slow request"
        requests.may_end.set()
        assert (slow.result(SECONDS), other.result(SECONDS)) == ("SLOW", "OTHER")
    assert requests.sent == [["slow"], ["other"]]


def test_error_is_raised_for_each_reply_and_ends_the_request() -> None:
    requests = Requests()
    requests.error = ConnectionError("lost")
    gatherer = ReplyGatherer(requests, len, wait_seconds=SECONDS)
    with ThreadPoolExecutor(3) as threads:
        sent = [threads.submit(gatherer, "first")]
        assert requests.running.wait(SECONDS)
        sent += [threads.submit(gatherer, name) for name in "ab"]
        wait_for_waiting(gatherer, 2)
        requests.may_end.set()
        for each in sent:
            with pytest.raises(ConnectionError, match="lost"):
                each.result(SECONDS)
    requests.error = None
    assert gatherer("later") == "LATER"
