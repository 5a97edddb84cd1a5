"""Test the Function App: its triggers, functions, imports and settings files."""

import ast
import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.catalogue import Catalogue
from contract.names import low_priority_queue
from gateway import housekeeping
from tests.unit.gateway.conftest import ENVIRON, RunningGateway

FUNCTIONS = Path(__file__).parents[3] / "functions"


async def test_housekeeping_deletes_old_histories(gateway: RunningGateway) -> None:
    old, running = await gateway.accept(), await gateway.accept()
    await gateway.http.delete(f"/v1/jobs/{old}")
    # The retention is 72 hours after the longest deadline, which is one hour.
    gateway.clock.now += timedelta(hours=73)
    assert (await housekeeping.run(gateway.durable, gateway.services))["histories"] == 0
    gateway.clock.now += timedelta(seconds=1)
    assert (await housekeeping.run(gateway.durable, gateway.services))["histories"] == 1
    assert list(gateway.durable.runs) == [running]


async def accept_unsent(gateway: RunningGateway, **options: Any) -> str:
    """Submit a job while the queue is down; return the input of its orchestration."""
    gateway.queues.is_down = True
    job_id = await gateway.accept(**options)
    gateway.queues.is_down = False
    return gateway.durable.runs[job_id].input


async def test_repeated_enqueue_sends_the_same_message_id(gateway: RunningGateway) -> None:
    ticket = await accept_unsent(gateway)
    assert await gateway.services.creator.enqueue(ticket) is None
    assert await gateway.services.creator.enqueue(ticket) is None
    (_, first), (_, second) = gateway.queues.sent
    assert first.message_id == second.message_id


async def test_enqueue_sends_nothing_after_the_deadline(gateway: RunningGateway) -> None:
    ticket = await accept_unsent(gateway)
    gateway.clock.now += timedelta(seconds=60)
    assert await gateway.services.creator.enqueue(ticket) is None
    assert not gateway.queues.sent


async def test_time_to_live_lasts_until_the_deadline(gateway: RunningGateway) -> None:
    await gateway.accept(deadline_seconds=1)
    ticket = await accept_unsent(gateway, deadline_seconds=1)
    gateway.clock.now += timedelta(milliseconds=10)
    await gateway.services.creator.enqueue(ticket)
    assert [message.time_to_live for _, message in gateway.queues.sent] == [
        timedelta(seconds=1)
    ] * 2


INDEX = """
import json
import function_app
for function in function_app.app.get_functions():
    bindings = json.loads(function.get_function_json())["bindings"]
    print(json.dumps([function.get_function_name(), bindings]))
"""

# Azure's host leaves out a function that breaks one of these rules, and runs all others.
FUNCTION_NAME = re.compile(r"(?!host$)[a-z][a-z0-9_\-]{0,127}", re.IGNORECASE)
BINDING_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,127}|\$return")
ROUTE = re.compile(r"(?!/?(admin|runtime)(/|$)).*", re.IGNORECASE)


def index_functions() -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the name and the bindings of each function of the app."""
    indexed = subprocess.run(
        [sys.executable, "-c", INDEX],
        cwd=FUNCTIONS,
        env=dict(ENVIRON),
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in indexed.stdout.splitlines()]


def test_azures_host_accepts_each_function() -> None:
    functions = index_functions()
    assert len({name.lower() for name, _ in functions}) == len(functions)
    for name, bindings in functions:
        assert FUNCTION_NAME.fullmatch(name)
        names = [binding["name"] for binding in bindings]
        assert all(map(BINDING_NAME.fullmatch, names)), (name, names)
        assert len({each.lower() for each in names}) == len(names), (name, names)
        assert sum(binding["type"].endswith("Trigger") for binding in bindings) == 1, name
        assert all(ROUTE.fullmatch(binding.get("route", "")) for binding in bindings), name


def test_exactly_the_expected_functions_are_registered() -> None:
    functions = [
        " ".join([name, *sorted(f"{each['type']}:{each['name']}" for each in bindings)])
        for name, bindings in index_functions()
    ]
    assert functions == [
        "http durableClient:client http:$return httpTrigger:req",
        "job orchestrationTrigger:context",
        "enqueue activityTrigger:ticket",
        "conclude activityTrigger:asked",
        "webhook orchestrationTrigger:context",
        "announce_webhook activityTrigger:job durableClient:client",
        "deliver_webhook activityTrigger:job durableClient:client",
        "batch orchestrationTrigger:context",
        "step_batch activityTrigger:batch",
        *(
            f"dead_letters_{queue} durableClient:client serviceBusTrigger:message"
            for model in Catalogue.load().values()
            for queue in (model.queue, low_priority_queue(model.queue))
        ),
        "watch durableClient:client timerTrigger:timer",
        "purge durableClient:client timerTrigger:timer",
    ]


def test_app_does_not_start_with_an_invalid_setting() -> None:
    started = subprocess.run(
        [sys.executable, "-c", "import function_app"],
        cwd=FUNCTIONS,
        env={**ENVIRON, "RETENTION_HOURS": "never"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert "RETENTION_HOURS: expected a whole number" in started.stderr


SOURCES = sorted(FUNCTIONS.rglob("*.py"))
OWN = {"contract", "gateway", "function_app"}
# Import name → name in requirements.in; typing_extensions comes with pydantic.
REQUIRED = {
    "azure.functions": "azure-functions",
    "azure.durable_functions": "azure-functions-durable",
    "azure.servicebus": "azure-servicebus",
    "azure.storage": "azure-storage-blob",
    "azure.core": "azure-core",
    "azurefunctions.extensions": "azurefunctions-extensions-base",
    "azure.identity": "azure-identity",
    "fastapi": "fastapi",
    "starlette": "starlette",
    "prometheus_client": "prometheus-client",
    "pydantic": "pydantic",
    "typing_extensions": "pydantic",
    "uuid_utils": "uuid-utils",
    "uvicorn": "uvicorn",
    "aiohttp": "aiohttp",
    "yarl": "yarl",
    "opentelemetry": "opentelemetry-api",
    "redis": "redis",
    "aio_pika": "aio-pika",
    "obstore": "obstore",
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
