"""Test the device probe, which runs a test computation to find out whether the device works."""

import threading
from collections.abc import Callable

import pytest

from worker.telemetry.health import DeviceProbe, Loops


class Device:
    """A device and its probe. The test computation raises `error` if `error` is not None."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = 0
        self.error: Exception | None = None
        self.failures: list[Exception] = []
        self.probe = DeviceProbe(self.run, self.failures.append, lambda: self.now)

    def run(self) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error

    def look(self) -> bool:
        """Ask the probe whether the device works, and return the answer.

        If the probe requests a test computation, run the computation and ask the probe again.
        """
        good, details = self.probe.look(0)
        if details.get("computed_seconds_ago", 31) > 30:
            self.probe.run_kernel()
            good, _ = self.probe.look(0)
        return good


@pytest.fixture
def device() -> Device:
    return Device()


def test_device_is_not_ready_before_a_computation(device: Device) -> None:
    good, details = device.probe.look(0)
    assert (good, details) == (False, {"problem": "no kernel has run yet"})
    assert device.runs == 0


def test_computation_runs_if_the_last_is_old(device: Device) -> None:
    for device.now in (0, 1, 10, 29, 31, 32, 60, 62, 63):
        assert device.look()
    assert device.runs == 3


def test_lost_device_is_reported_once(device: Device) -> None:
    assert device.look()
    device.now, device.error = 40, RuntimeError("CUDA error: unspecified launch failure")
    good, _ = device.probe.look(0)
    assert good, "the last result is valid until the kernel has run again"
    device.probe.run_kernel()
    assert device.probe.look(0) == (False, {"problem": "RuntimeError"})
    assert device.failures == [device.error]


def test_device_is_ready_again_after_a_success(device: Device) -> None:
    device.error = RuntimeError("busy")
    assert not device.look()
    device.error = None
    assert device.look()


def test_hanging_computation_is_not_ready(device: Device) -> None:
    assert device.look()
    device.now = 40
    assert device.probe.look(0)[0]
    device.now = 51
    assert device.probe.look(0) == (
        False,
        {"problem": "the kernel has not finished", "asked_seconds_ago": 11},
    )


def test_worker_is_not_alive_after_90_hanging_seconds(device: Device) -> None:
    loops = Loops(lambda: device.now)
    loops.watch("probe", lambda: device.probe.iterated_at)
    assert device.look()
    device.now = 1000
    assert loops.live()[0], "no kernel was requested, so the loop is idle"
    device.probe.ask()
    device.now = 1089
    assert loops.live()[0]
    device.now = 1091
    good, details = loops.live()
    assert not good
    assert details["stalled"] == ["probe"]
    device.probe.run_kernel()
    assert loops.live()[0]


def test_first_look_waits_for_the_computation(join: Callable[[DeviceProbe], None]) -> None:
    probe = DeviceProbe(lambda: None, lambda error: None)
    join(probe)
    assert probe.look(10)[0]


@pytest.fixture
def join() -> Callable[[DeviceProbe], None]:
    """Return a function that starts a daemon thread in which a device probe runs."""

    def start(probe: DeviceProbe) -> None:
        stop = threading.Event()
        threading.Thread(target=probe.run, args=(stop,), daemon=True).start()

    return start
