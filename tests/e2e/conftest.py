from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import System, running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run one system, which is shared by all tests that do not stop it."""
    with running(tmp_path_factory.mktemp("loosely") / "data") as started:
        yield started


@pytest.fixture
def pictures() -> Path:
    return Path(__file__).parents[2] / "examples"
