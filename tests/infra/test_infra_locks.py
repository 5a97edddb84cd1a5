"""Check the package locks of the gateway and the worker, and the documented lowest versions."""

import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from infra.lock import (
    FUNCTIONS,
    FUNCTIONS_LOCK,
    ROOT,
    TORCH_LOCK,
    WORKER_LOCK,
    WORKER_TARGET,
    LockedPackage,
    is_torch,
    read_lock,
)

LOCKS = (WORKER_LOCK, TORCH_LOCK, FUNCTIONS_LOCK)
# The interpreter and the platform of the image and of the Function App.
ENVIRONMENT: dict[str, str] = {
    **{name: str(value) for name, value in default_environment().items()},
    "python_version": "3.12",
    "python_full_version": "3.12.12",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "extra": "",
}


def is_installed_on(package: LockedPackage, python: str) -> bool:
    marker = package.requirement.marker
    versions = {"python_version": python, "python_full_version": f"{python}.12"}
    return marker is None or marker.evaluate(ENVIRONMENT | versions)


def locked(*paths: Path, python: str = "3.12") -> dict[str, LockedPackage]:
    texts = [path.read_text(encoding="utf-8") for path in paths]
    packages = [package for text in texts for package in read_lock(text)]
    return {package.name: package for package in packages if is_installed_on(package, python)}


WORKER = locked(WORKER_LOCK, TORCH_LOCK)
GATEWAY = locked(FUNCTIONS_LOCK)


def extras() -> dict[str, list[str]]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = document["project"]["optional-dependencies"]
    return found


def worker_requirements() -> list[str]:
    found = extras()
    every = [*found["worker-loop"], *found["worker"], *found["telemetry"]]
    return [text for text in every if not text.startswith("loosely[")]


def gateway_requirements() -> list[str]:
    lines = FUNCTIONS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def unsatisfied(
    requirements: Iterable[str], packages: Mapping[str, LockedPackage]
) -> Iterator[str]:
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(ENVIRONMENT):
            continue
        package = packages.get(canonicalize_name(requirement.name))
        if package is None or package.version not in requirement.specifier:
            yield text


@pytest.mark.parametrize(
    ("requirements", "packages"),
    [(worker_requirements(), WORKER), (gateway_requirements(), GATEWAY)],
    ids=["worker", "gateway"],
)
def test_locks_satisfy_every_requirement(
    requirements: list[str], packages: dict[str, LockedPackage]
) -> None:
    assert len(requirements) > 10
    assert not [*unsatisfied(requirements, packages)], "run ./dev lock"


def test_check_reports_old_and_missing_packages() -> None:
    newer = f"pillow>{WORKER['pillow'].version}"
    assert [*unsatisfied([newer, "absent>=1", "pillow>=1"], WORKER)] == [newer, "absent>=1"]


@pytest.mark.parametrize("packages", [WORKER, GATEWAY], ids=["worker", "gateway"])
def test_locks_contain_all_dependencies(packages: dict[str, LockedPackage]) -> None:
    compared = 0
    for package in packages.values():
        try:
            installed = importlib.metadata.distribution(package.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(installed.version) != package.version:
            continue
        compared += 1
        missing = [*unsatisfied(installed.requires or [], packages)]
        assert not missing, f"{package.name} needs {missing}"
    assert compared > 25


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_gateways_lock_installs_on_each_python(python: str) -> None:
    packages = locked(FUNCTIONS_LOCK, python=python)
    assert packages.keys() == GATEWAY.keys()
    for package in packages.values():
        with suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.distribution(package.name)
            if Version(installed.version) == package.version:
                [supported] = installed.metadata.get_all("Requires-Python", [""])
                assert python in SpecifierSet(supported), f"{package} needs {supported}"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_have_versions_and_hashes_but_no_urls(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"://|^-", text, re.MULTILINE)
    packages = read_lock(text)
    for package in packages:
        assert str(package.requirement.specifier) == f"=={package.version}"
        assert package.hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in package.hashes)
    for python in ("3.11", "3.12", "3.13"):
        names = [package.name for package in packages if is_installed_on(package, python)]
        assert len(set(names)) == len(names)


def test_only_torchs_lock_contains_cuda() -> None:
    assert not [name for name in locked(WORKER_LOCK) if is_torch(name)]
    torch = locked(TORCH_LOCK)
    assert {"torch", "torchvision"} <= torch.keys()
    assert all(is_torch(name) for name in torch)


def test_no_lock_contains_torchaudio() -> None:
    # PyPI's build needs CUDA. transformers imports torchaudio if it is there.
    assert "torchaudio" not in WORKER


def test_torchaudio_does_not_break_transformers() -> None:
    # Without the package there is nothing to break. `./dev environment` removes an old one.
    if importlib.util.find_spec("torchaudio") is not None:
        importlib.import_module("torchaudio")


def test_workers_lock_targets_the_images_python() -> None:
    dockerfile = (ROOT / "worker" / "Dockerfile").read_text(encoding="utf-8")
    versions = set(re.findall(r"^FROM \S+/python:(\d+\.\d+)\.", dockerfile, re.MULTILINE))
    assert f"--python-version={versions.pop()}" in WORKER_TARGET
    assert not versions


def floors() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    base: list[str] = document["project"]["dependencies"]
    optional = (text for lines in extras().values() for text in lines)
    for text in [*base, *optional, *gateway_requirements()]:
        requirement = Requirement(text)
        for specifier in requirement.specifier:
            if specifier.operator in {">=", "=="}:
                found.setdefault(requirement.name, set()).add(specifier.version)
    return found


def test_documented_minimum_versions_are_required() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("### Floors") :]
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", section, re.MULTILINE)
    assert len(rows) >= 12
    declared = floors()
    for name, floor in rows:
        assert declared[name] == {floor}, f"{name}: the table says {floor}"


# The packages whose private names our code may use, by the name of their module.
PRIVATE_USE = {
    "azure.servicebus": "azure-servicebus",
    "azure.durable_functions": "azure-functions-durable",
}


@pytest.mark.parametrize("module", PRIVATE_USE)
def test_package_with_private_imports_is_pinned(module: str) -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("functions", "worker")
        for path in (ROOT / folder).rglob("*.py")
    )
    imports = re.findall(rf"^from ({re.escape(module)}[\w.]*) import (.*)$", code, re.MULTILINE)
    assert imports
    has_private = any("._" in found or re.search(r"\b_", names) for found, names in imports)
    [specifier] = {
        str(Requirement(text).specifier)
        for text in [*gateway_requirements(), *worker_requirements()]
        if Requirement(text).name == PRIVATE_USE[module]
    }
    assert specifier.startswith("==") is has_private, specifier


# AKS installs driver 580 (AgentBaker #8811, 2026-07), which runs CUDA 13: docs/how-to/deploy.md.
CUDA_OF_THE_NODES = "13."


def test_locked_torch_fits_the_nodes_cuda() -> None:
    assert str(locked(TORCH_LOCK)["nvidia-cuda-runtime"].version).startswith(CUDA_OF_THE_NODES)


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: ([\w./-]+)@(\S+)", path.read_text(encoding="utf-8"))
    assert used
    for action, version in used:
        assert re.fullmatch(r"[0-9a-f]{40}", version), action


def test_workflows_make_sboms_and_scan_the_image() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in WORKFLOWS}
    audit, deploy = texts["audit"], texts["deploy"]
    assert "--format cyclonedx-json" in audit
    assert "anchore/sbom-action@" in deploy
    assert "aquasecurity/trivy-action@" in deploy


def test_workflow_moves_the_base_image_each_week() -> None:
    document = yaml.safe_load((ROOT / ".github/workflows/base-image.yml").read_text("utf-8"))
    # YAML 1.1 reads the key `on` as true.
    [schedule] = document[True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", schedule["cron"])
    steps = str(document["jobs"]["propose"]["steps"])
    assert "infra/scripts/update-base-image.sh" in steps
    assert "docker build --file worker/Dockerfile" in steps


def test_audit_workflow_checks_each_lock() -> None:
    text = (ROOT / ".github/workflows/audit.yml").read_text(encoding="utf-8")
    loops = re.findall(r"for lock in (.+); do", text)
    assert len(loops) == 2, "not both for the comparison and for the list of packages"
    for names in loops:
        assert {ROOT / name for name in names.split()} == set(LOCKS)
    assert "--require-hashes" in text
