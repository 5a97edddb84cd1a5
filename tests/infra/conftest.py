"""The deployment files, and whether they can be rendered here."""

import os
import shutil

import pytest

from tests.infra.deployment import ROOT, Deployment


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
