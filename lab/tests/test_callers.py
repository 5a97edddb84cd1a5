"""Test the memory for large bodies, and the waits of callers that disconnect, by the benchmarks."""

from pathlib import Path

import pytest

from lab.benchmarks import bodies, hangups
from tests.e2e.system import running

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]


def test_large_bodies_need_little_memory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, bodies.CATALOGUE, without=("worker",)) as system:
        figures = [
            bodies.measure_uploads(
                system, "wide", is_chunked=is_chunked, callers=4, size_bytes=20_000_000
            )
            for is_chunked in (False, True)
        ]
        figures.append(bodies.measure_pipe(system, "narrow", 60_000_000))
    assert all(figure.is_met for figure in figures), figures


@pytest.mark.parametrize("options", [(), ("--isolated",)])
def test_waits_of_absent_callers_end(options: tuple[str, ...]) -> None:
    figures = hangups.run(40, 4, options)
    assert all(figure.is_met for figure in figures), figures
