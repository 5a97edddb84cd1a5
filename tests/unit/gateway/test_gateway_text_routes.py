"""Test `TextRoute`, which bypasses FastAPI's parameter handling if all parameters are strings."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from gateway.http.app import MODULES
from gateway.http.requests import TextRoute


def text_app() -> FastAPI:
    app = FastAPI()
    app.router.route_class = TextRoute

    @app.get("/texts/{name}")
    async def texts(request: Request, name: str, token: str = "none") -> Response:
        return Response(f"{name} {token} {request.method}")

    @app.get("/numbers/{number}")
    async def numbers(request: Request, number: int) -> Response:
        return Response(str(number + 1))

    return app


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/texts/a", (200, "a none GET")),
        ("GET", "/texts/a%20b?token=c%2Bd", (200, "a b c+d GET")),
        ("GET", "/texts/a?token=1&token=2&other=3", (200, "a 2 GET")),
        ("GET", "/numbers/4", (200, "5")),
        ("GET", "/numbers/four", (422, None)),
        ("POST", "/texts/a", (405, None)),
    ],
)
async def test_values_equal_those_of_fastapi(
    method: str, path: str, expected: tuple[int, str | None]
) -> None:
    transport = httpx.ASGITransport(text_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.request(method, path)
    status, text = expected
    assert answer.status_code == status
    assert text is None or answer.text == text


def test_frequent_routes_bypass_validation() -> None:
    routes: list[Any] = [route for module in MODULES for route in module.router.routes]
    direct = {route.path for route in routes if isinstance(route, TextRoute) and route.is_direct}
    assert direct >= {"/v1/models/{model}/jobs", "/v1/jobs/{job_id}/reply", "/v1/jobs/{job_id}"}
