"""Run the benchmark of batches with few lines."""

from collections.abc import Iterator

import pytest

from lab.benchmarks import batches
from lab.benchmarks.figures import Figure
from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp("batches") / "data"
    with running(data, batches.CATALOGUE) as started:
        yield started


def unmet(figures: list[Figure], name: str) -> list[Figure]:
    return [figure for figure in figures if name in figure.name and not figure.is_met]


def test_lines_are_cheaper_than_jobs(system: System) -> None:
    figures = batches.measure_lines(system, [500], 200)
    (share,) = [figure for figure in figures if figure.name.endswith("of such a job's")]
    assert float(share.value) < 1.0
    assert not unmet(figures, "memory")


def test_small_batches_all_end(system: System) -> None:
    assert not unmet(batches.measure_small(system, 20), "ended as")


def test_operations_of_a_line_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    figures = batches.measure_operations(tmp_path_factory.mktemp("counted"), 300)
    (service_bus,) = [figure for figure in figures if "Service Bus" in figure.name]
    assert {"complete 1.000", "receive 1.000", "send 1.000"} <= set(service_bus.value.split(", "))
