"""Configure pytest and Hypothesis for all tests of the emulator."""

import gc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, and these tests do not measure time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


class _FailureReporter:
    """Print each failure at once, because a run that is stopped prints no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})", red=True)
            self._terminal.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)  # pytest's own hook makes the terminal reporter
def pytest_configure(config: pytest.Config) -> None:
    """Report failures at once."""
    # The processes of pytest-xdist have no terminal reporter: the first process prints.
    if terminal := config.pluginmanager.get_plugin("terminalreporter"):
        config.pluginmanager.register(_FailureReporter(terminal))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the longest time limits first, so that no process ends much later."""
    limits: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0), marker.args[0] if marker else 0)
    items.sort(key=lambda item: -limits[item.path])


def pytest_collection_finish() -> None:
    """Exclude all loaded modules from garbage collection, as our programs do at their start."""
    gc.collect()
    gc.freeze()
