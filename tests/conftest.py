"""Configure pytest and hypothesis for all tests."""

import gc
import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine may be slow, so hypothesis gets no deadline and no health check of its speed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_TORCH = re.compile(r"^(?:import|from) (?:numpy|torch|torchvision)\b", re.MULTILINE)
_PROGRAM_TEST_SECONDS = 120
_HAS_TORCH = importlib.util.find_spec("torch") is not None


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
    """Report failures at once, and ignore a warning that the SDK of Durable Functions issues."""
    # The processes of pytest-xdist have no terminal reporter: the first process prints.
    if terminal := config.pluginmanager.get_plugin("terminalreporter"):
        config.pluginmanager.register(_FailureReporter(terminal))
    ignored = "ignore:azure.functions df_loads:DeprecationWarning"
    config.addinivalue_line("filterwarnings", ignored)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the longest time limits first, so that no process ends much later.

    Tests that start programs get a longer limit than others, because a busy machine is slow.
    """
    limits: dict[Path, float] = {}
    for item in items:
        if {"conformance", "e2e"} & {*item.path.parts} and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_PROGRAM_TEST_SECONDS))
        marker = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0), marker.args[0] if marker else 0)
    items.sort(key=lambda item: -limits[item.path])


def pytest_collection_finish() -> None:
    """Exclude all loaded modules from garbage collection, as our programs do at their start.

    A collection of half a million objects takes a second on a busy machine.
    """
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip a test file that imports torch or NumPy if torch is not installed.

    Return True to skip the file, or None to collect it. `./dev newer` runs the tests without torch.
    """
    if _HAS_TORCH or collection_path.suffix != ".py":
        return None
    return bool(_TORCH.search(collection_path.read_text(encoding="utf-8"))) or None
