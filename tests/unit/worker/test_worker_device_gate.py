"""Test the device gate: shared and exclusive use of the device."""

from __future__ import annotations

import threading

from worker.memory.limits import DeviceGate


def test_exclusive_use_of_the_device_waits_for_earlier_threads_and_delays_later_threads() -> None:
    gate, order = DeviceGate(), list[str]()
    inside, leave, alone_waits = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with gate.shared():
            inside.set()
            leave.wait(10)
            order.append("first")

    def alone() -> None:
        alone_waits.set()
        with gate.exclusive():
            order.append("alone")

    def later() -> None:
        with gate.shared():
            order.append("later")

    threads = [threading.Thread(target=step) for step in (first, alone, later)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    assert alone_waits.wait(10)
    while not gate._waiting_count:
        pass
    threads[2].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "alone", "later"]


def test_two_threads_use_the_device_at_the_same_time_in_shared_mode() -> None:
    gate, both = DeviceGate(), threading.Barrier(2, timeout=10)

    def use() -> None:
        with gate.shared():
            both.wait()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not both.broken


def test_a_thread_waits_for_exclusive_use_of_the_device_only_for_a_limited_time() -> None:
    gate, finished = DeviceGate(max_wait_seconds=0.01), list[str]()
    with gate.shared():
        with gate.exclusive():
            finished.append("beside a long job")
        with gate.shared():
            finished.append("others get in again")
    with gate.exclusive():
        finished.append("alone")
    assert len(finished) == 3
