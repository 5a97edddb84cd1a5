"""Count the operations of a job on Azure services, and compare them with capacity.md."""

from collections.abc import Iterator

import pytest

from lab.benchmarks.operations import COLUMNS, KINDS, OperationCounter, run_counter
from tests.e2e.system import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

READS = "blob reads"
ATTEMPTS = 3
"""How often a kind of job is counted until its operations are the documented ones.

On a busy machine, a job may end before its orchestration is started, or be renewed.
"""


def documented() -> dict[str, dict[str, int]]:
    """Read the table of docs/explanation/capacity.md. Return a dict for each kind of job.

    Each dict contains the number of operations by the name of the operation.
    """
    text = (ROOT / "docs/explanation/capacity.md").read_text("utf-8")
    section = text.partition("## Counted in a running system\n")[2].partition("\n\n- ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(header[1:], map(int, numbers), strict=True)) for name, *numbers in rows}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperationCounter]:
    """Run a system that counts the operations on Service Bus, blobs and orchestrations."""
    with run_counter(tmp_path_factory.mktemp("capacity")) as started:
        yield started


def test_table_has_all_kinds_and_operations() -> None:
    table = documented()
    assert list(table) == list(KINDS)
    assert all(list(row) == list(COLUMNS) for row in table.values())


@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_documented_numbers(counter: OperationCounter, kind: str) -> None:
    expected, found = documented()[kind], dict[str, int]()
    for _ in range(ATTEMPTS):
        job = counter.count(kind)
        assert job.turns + job.activities <= job.actions
        found = {column: read(job) for column, read in COLUMNS.items()}
        # A slow machine may delay the answer until the waiting request reads the outcome.
        if 0 <= found[READS] - expected[READS] <= job.most_waiting_reads:
            found[READS] = expected[READS]
        if found == expected:
            return
    assert found == expected
