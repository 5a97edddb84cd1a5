"""The deployment files, and whether they can be rendered here."""

import os
import shutil
from pathlib import Path

import pytest

from tests.infra.deployment import ROOT, Deployment
from tests.infra.scripted import Place, check_out, place_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without kubectl nothing can be rendered: left out, except where everything must be run."""
    if shutil.which("kubectl") or "CI" in os.environ:
        return
    for item in items:
        if "tests/infra" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason="kubectl, which renders, is not installed"))


@pytest.fixture(scope="session")
def repository() -> Deployment:
    """The files as they are."""
    return Deployment(ROOT)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files, for scripts that write or ask Git."""
    root = tmp_path_factory.mktemp("checkout")
    check_out(root)
    return root


@pytest.fixture
def place(checkout: Path, tmp_path: Path) -> Place:
    """Its scripts, and new programs that stand for Azure's."""
    return place_in(checkout, tmp_path / "bin")
