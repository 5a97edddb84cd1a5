"""The OpenAPI document: valid, whole, and fit to generate a client from."""

import keyword
from typing import Any

import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.http.app import MODULES
from gateway.http.problems import PROBLEM_KINDS
from tests.unit.gateway.conftest import World


@pytest.fixture
async def document(world: World) -> dict[str, Any]:
    found: dict[str, Any] = (await world.http.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_in_it(document: dict[str, Any]) -> None:
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


def test_operations_are_named_as_functions_are(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    assert {"submit_job", "get_job", "get_result", "cancel_job", "oip_infer"} <= set(names)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for child in value.values() for found in references(child)]
    if isinstance(value, list):
        return [found for child in value for found in references(child)]
    return []


def test_nothing_of_the_frameworks_own_errors_is_left(document: dict[str, Any]) -> None:
    assert "ValidationError" not in str(document)


def test_every_problem_is_shown_somewhere(document: dict[str, Any]) -> None:
    shown = {
        code
        for _, _, operation in operations(document)
        for response in operation["responses"].values()
        for content in response.get("content", {}).values()
        for code in content.get("examples", ())
    }
    # Those of an address or a method that is not in the document.
    assert set(PROBLEM_KINDS) - shown == {"not-found", "method-not-allowed"} - shown


def test_whoever_needs_a_key_is_told(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        needs_key = {"bearer": []} in operation.get("security", ())
        is_told = {"401", "403", "429"} <= set(operation["responses"])
        assert needs_key <= is_told, (method, path)
    submit = document["paths"]["/v1/models/{model}/jobs"]["post"]
    assert {"bearer": []} in submit["security"]
    assert "security" not in document["paths"]["/v1/health/live"]["get"]


def test_headers_are_described_where_they_are_sent(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/models/{model}/jobs"]["post"]["responses"]
    assert {"Location", "Retry-After", "Preference-Applied"} <= set(responses["202"]["headers"])
    assert "Retry-After" in responses["503"]["headers"]
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            assert "traceresponse" in response["headers"]
