"""Test the device lock: shared and exclusive use of the device."""

from __future__ import annotations

import threading

from worker.memory.limits import DeviceLock


def test_exclusive_use_of_the_device_waits_for_earlier_threads_and_delays_later_threads() -> None:
    device_lock, order = DeviceLock(), list[str]()
    inside, leave, alone_waits = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with device_lock.shared():
            inside.set()
            leave.wait(10)
            order.append("first")

    def alone() -> None:
        alone_waits.set()
        with device_lock.exclusive():
            order.append("alone")

    def later() -> None:
        with device_lock.shared():
            order.append("later")

    threads = [threading.Thread(target=step) for step in (first, alone, later)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    assert alone_waits.wait(10)
    while not device_lock._waiting_count:
        pass
    threads[2].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "alone", "later"]


def test_two_threads_use_the_device_at_the_same_time_in_shared_mode() -> None:
    device_lock, both = DeviceLock(), threading.Barrier(2, timeout=10)

    def use() -> None:
        with device_lock.shared():
            both.wait()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not both.broken


def test_a_thread_waits_for_exclusive_use_of_the_device_only_for_a_limited_time() -> None:
    device_lock, finished = DeviceLock(max_wait_seconds=0.01), list[str]()
    with device_lock.shared():
        with device_lock.exclusive():
            finished.append("beside a long job")
        with device_lock.shared():
            finished.append("others get in again")
    with device_lock.exclusive():
        finished.append("alone")
    assert len(finished) == 3
