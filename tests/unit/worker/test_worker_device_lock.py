"""Test the device lock: shared and exclusive use of the device."""

from __future__ import annotations

import threading

from worker.memory.limits import DeviceLock


def test_exclusive_use_waits_and_delays_later_threads() -> None:
    device_lock, order = DeviceLock(), list[str]()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with device_lock.shared():
            inside.set()
            leave.wait(10)
            order.append("first")

    def alone() -> None:
        with device_lock.exclusive():
            order.append("alone")

    def later() -> None:
        with device_lock.shared():
            order.append("later")

    threads = [threading.Thread(target=step) for step in (first, alone)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    # A later thread enters until the exclusive one waits.
    while not threads[2:] or not threads[-1].is_alive():
        threads.append(threading.Thread(target=later))
        threads[-1].start()
        threads[-1].join(0.5)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order[-3:] == ["first", "alone", "later"]


def test_shared_use_is_simultaneous() -> None:
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


def test_wait_for_exclusive_use_is_limited() -> None:
    device_lock, finished = DeviceLock(max_wait_seconds=0.01), list[str]()
    with device_lock.shared():
        with device_lock.exclusive():
            finished.append("beside a long job")
        with device_lock.shared():
            finished.append("others get in again")
    with device_lock.exclusive():
        finished.append("alone")
    assert len(finished) == 3
