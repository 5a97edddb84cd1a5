"""Fixtures for tests of the deployment's files and of its scripts."""

import os
import shutil
from pathlib import Path

import pytest

from tests.infra.deployment import ROOT, DeploymentFiles
from tests.infra.script_runner import ScriptRunner, install_scripts, make_checkout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests in tests/infra if kubectl is not installed. In CI, let these tests fail."""
    if shutil.which("kubectl") or "CI" in os.environ:
        return
    for item in items:
        if "tests/infra" in item.nodeid:
            item.add_marker(
                pytest.mark.skip(reason="kubectl, which renders the manifests, is not installed")
            )


@pytest.fixture(scope="session")
def repository() -> DeploymentFiles:
    return DeploymentFiles(ROOT)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository, for scripts that write files or call Git."""
    root = tmp_path_factory.mktemp("checkout")
    make_checkout(root)
    return root


@pytest.fixture
def scripts(checkout: Path, tmp_path: Path) -> ScriptRunner:
    """Return a runner for the deployment scripts in `checkout`, with fake programs such as az."""
    return install_scripts(checkout, tmp_path / "bin")
