"""Test that the folder `functions/` can be deployed alone: check its imports and settings files."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

FUNCTIONS = Path(__file__).parents[3] / "functions"
SOURCES = sorted(FUNCTIONS.rglob("*.py"))
OWN = {"contract", "gateway", "function_app"}
# Import name → name in requirements.in; typing_extensions comes with pydantic.
REQUIRED = {
    "azure.functions": "azure-functions",
    "azure.durable_functions": "azure-functions-durable",
    "azure.servicebus": "azure-servicebus",
    "azure.storage": "azure-storage-blob",
    "azure.core": "azure-core",
    "azure.identity": "azure-identity",
    "fastapi": "fastapi",
    "starlette": "starlette",
    "prometheus_client": "prometheus-client",
    "pydantic": "pydantic",
    "typing_extensions": "pydantic",
    "uuid_utils": "uuid-utils",
    "aiohttp": "aiohttp",
    "yarl": "yarl",
    "opentelemetry": "opentelemetry-api",
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FUNCTIONS)))
def test_only_declared_requirements_are_imported(path: Path) -> None:
    requirements = (FUNCTIONS / "requirements.in").read_text(encoding="utf-8")
    for name in imports(path):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in OWN:
            continue
        package = REQUIRED.get(".".join(name.split(".")[:2])) or REQUIRED.get(top)
        assert package, f"{path.name} imports {name}"
        assert re.search(rf"^{package}\b", requirements, re.MULTILINE)


def test_host_json_sets_bundle_prefix_and_task_hub() -> None:
    host = json.loads((FUNCTIONS / "host.json").read_text(encoding="utf-8"))
    assert host["version"] == "2.0"
    assert host["extensionBundle"] == {
        "id": "Microsoft.Azure.Functions.ExtensionBundle",
        "version": "[4.26.0, 5.0.0)",
    }
    assert host["extensions"]["http"]["routePrefix"] == ""
    assert host["extensions"]["durableTask"]["hubName"] == "loosely"
