"""Test which route a 404 names to clients of other services."""

import pytest

from tests.unit.gateway.conftest import RunningGateway


class TestForeignPath:
    @pytest.mark.parametrize(
        ("path", "hint"),
        [
            ("/v1/predictions", "POST /v1/models/{model}/jobs"),
            ("/v1/predictions/abc/cancel", "DELETE /v1/jobs/{id}"),
            ("/v1/models/stability-ai/sdxl/predictions", "POST /v1/models/{model}/jobs"),
            ("/v1/deployments/acme/sdxl/predictions", "POST /v1/models/{model}/jobs"),
            ("/predictions", "POST /v1/models/{model}/jobs"),
            ("/fal-ai/flux/dev", "POST /v1/models/{model}/jobs"),
            ("/acme/app/requests/abc/status", "GET /v1/jobs/{id}"),
            ("/v1/chat/completions", "/openai/v1"),
            ("/chat/completions", "/openai/v1"),
            ("/v1/files/file-1", "/openai/v1"),
        ],
    )
    async def test_404_names_our_route(self, gateway: RunningGateway, path: str, hint: str) -> None:
        for method in ("GET", "POST"):
            answer = await gateway.http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
            assert hint in answer.json()["detail"]

    async def test_other_404_has_no_hint(self, gateway: RunningGateway) -> None:
        answer = await gateway.http.get("/v1/nothing")
        assert answer.json()["detail"] == "the API has no resource at this path"
