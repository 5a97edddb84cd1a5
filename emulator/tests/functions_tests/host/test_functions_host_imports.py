"""Test that the process of the Functions host does not import modules that it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
# Modules that only a Function App, a worker or the azure-storage engine needs.
NEVER = (
    *("aiohttp", "azure.durable_functions", "azure.functions", "azure.storage", "fastapi"),
    *("numpy", "opentelemetry", "pydantic", "starlette", "torch"),
    "emulator.functions.durable.azure_storage.engine",
)

# Modules that the host imports while the app process loads the app.
LATER = (
    *("azure", "croniter", "platform", "sqlite3", "uuid", "uvicorn"),
    *("emulator.functions.catalogue", "emulator.functions.services"),
)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("emulator.functions.__main__", (*NEVER, *LATER)),
        ("emulator.functions.services", NEVER),
    ],
    ids=["before the app process starts", "to serve the loaded app"],
)
def test_host_imports_only_what_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*({set(unwanted)!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == []
