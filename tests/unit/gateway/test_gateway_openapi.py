"""Test that the OpenAPI document is valid and complete."""

import asyncio
import keyword
from typing import Any

import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from contract.heartbeats import ModelHeartbeat, ModelState
from gateway.http.app import MODULES
from gateway.http.openapi.examples import EXAMPLES
from gateway.problems import PROBLEM_KINDS
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.workers import beat

# The SDK warns once in each process that a codec has no type.
pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_:DeprecationWarning")


@pytest.fixture(scope="module")
def document() -> Any:
    """Return the document, which takes long to build."""

    async def read() -> Any:
        async with open_gateway() as gateway:
            return await gateway.get("/openapi.json")

    return asyncio.run(read())


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_document_conforms_to_openapi_3_1(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = {(path, method) for path, method, _ in operations(document)}
    routes = [
        route
        for module in MODULES
        for route in module.router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    ]
    assert len(routes) > 15
    for route in routes:
        assert {(route.path, method) for method in route.methods or ()} <= described


def test_operation_ids_are_function_names(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    assert {"submit_job", "get_job", "get_result", "cancel_job", "oip_infer"} <= set(names)


def test_every_reference_is_defined(document: dict[str, Any]) -> None:
    for reference in references(document):
        assert resolve(document, {"$ref": reference})


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the document that `value` refers to, or `value` if it has no `$ref`."""
    if "$ref" not in value:
        return value
    found: Any = document
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for child in value.values() for found in references(child)]
    if isinstance(value, list):
        return [found for child in value for found in references(child)]
    return []


def test_validation_errors_of_fastapi_are_left_out(document: dict[str, Any]) -> None:
    assert "ValidationError" not in str(document)


def test_each_possible_problem_has_an_example(document: dict[str, Any]) -> None:
    shown = {
        code
        for _, _, operation in operations(document)
        for response in operation["responses"].values()
        for content in response.get("content", {}).values()
        for code in content.get("examples", ())
    }
    # No route has the problems of unknown paths and unsupported methods.
    assert set(PROBLEM_KINDS) - shown == {"not-found", "method-not-allowed"} - shown


def test_tags_of_workers_and_operators_come_last(document: dict[str, Any]) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    assert tags[0] == "jobs"
    assert tags[-2:] == ["workers", "admin"]
    assert {tag for _, _, each in operations(document) for tag in each["tags"]} == set(tags)
    assert all(tag["description"] for tag in document["tags"])


def test_each_example_is_valid_under_its_schema(document: dict[str, Any]) -> None:
    found = {operation["operationId"]: operation for _, _, operation in operations(document)}
    for name, status in EXAMPLES:
        content = found[name]["responses"][status]["content"]["application/json"]
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(content["example"])


def test_routes_with_keys_list_401_403_and_429(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        needs_key = {"bearer": []} in operation.get("security", ())
        is_told = {"401", "403", "429"} <= set(operation["responses"])
        assert needs_key <= is_told, (method, path)
    submit = document["paths"]["/v1/models/{model}/jobs"]["post"]
    assert {"bearer": []} in submit["security"]
    assert "security" not in document["paths"]["/v1/health/live"]["get"]


def test_headers_of_responses_are_described(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/models/{model}/jobs"]["post"]["responses"]
    assert {"Location", "Retry-After", "Preference-Applied"} <= set(responses["202"]["headers"])
    assert "Retry-After" in responses["503"]["headers"]
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            assert "traceresponse" in resolve(document, response)["headers"]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/{model}", "/v1/models/noop"),
        ("/v1/jobs", "/v1/jobs"),
        ("/v1/jobs/{job_id}", "/v1/jobs/{ended}"),
        ("/v1/jobs/{job_id}", "/v1/jobs/{queued}"),
        ("/v1/health/live", "/v1/health/live"),
        ("/v1/health/ready", "/v1/health/ready"),
        ("/v1/jobs", "/v1/jobs?label=x&created_after=2026-03-01T12:00:00Z"),
        ("/v1/admin/dead-letters", "/v1/admin/dead-letters"),
        ("/v1/admin/tenants", "/v1/admin/tenants"),
        ("/v1/admin/tenants/{tenant}", "/v1/admin/tenants/*"),
        ("/v1/admin/tenants/audit", "/v1/admin/tenants/audit"),
        ("/v1/ops/overview", "/v1/ops/overview"),
        ("/v1/ops/series", "/v1/ops/series?minutes=3"),
        ("/v1/admin/dead-letters/count", "/v1/admin/dead-letters/count?model=noop"),
        ("/v1/jobs/{job_id}", "/v1/jobs/unknown"),
        ("/v2", "/v2"),
        ("/v2/models/{model}", "/v2/models/noop"),
        ("/v2/models/{model}", "/v2/models/unknown"),
    ],
)
async def test_each_response_is_valid_under_its_schema(
    gateway: RunningGateway, document: dict[str, Any], path: str, sent: str
) -> None:
    ended = await gateway.accept()
    await gateway.reply()
    queued = await gateway.accept()
    beat(gateway, models=(ModelHeartbeat("noop", ModelState.BROKEN, "model-failed", "no weights"),))
    answer = await gateway.http.get(sent.format(ended=ended, queued=queued))
    response = document["paths"][path]["get"]["responses"][str(answer.status_code)]
    (content,) = response["content"].values()
    schema = {**content["schema"], "components": document["components"]}
    Draft202012Validator(schema).validate(answer.json())
