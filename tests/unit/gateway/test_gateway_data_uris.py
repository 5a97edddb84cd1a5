"""Test `data:` URIs as inputs."""

import base64
import json
from typing import Any

import pytest

from contract.messages import InlineBytes, InlineJson
from tests.unit.gateway.conftest import RunningGateway

PNG = b"\x89PNG\r\n\x1a\n\0\0"
PNG_64 = base64.b64encode(PNG).decode()


class TestDataUri:
    @pytest.mark.parametrize(
        ("uri", "payload"),
        [
            (f"data:image/png;base64,{PNG_64}", InlineBytes("image/png", PNG)),
            (f"DATA:Image/PNG;x=y;BASE64,{PNG_64}", InlineBytes("image/png", PNG)),
            (f"data:;base64,{PNG_64}", InlineBytes("application/octet-stream", PNG)),
            (f"data:image/png;base64,{PNG_64.replace('=', '%3D')}", InlineBytes("image/png", PNG)),
            ("data:text/plain;charset=utf-8,a%20b,+", InlineBytes("text/plain", b"a b,+")),
            ("data:text/plain,é", InlineBytes("text/plain", "é".encode())),
            ("data:application/json,[1]", InlineJson([1])),
            ("data:,x", InlineBytes("application/octet-stream", b"x")),
        ],
    )
    async def test_is_the_input_itself(
        self, gateway: RunningGateway, uri: str, payload: Any
    ) -> None:
        answer = await gateway.submit(json={"input": {"url": uri}})
        assert answer.status_code == 202, answer.text
        assert gateway.queues.request().input == payload

    async def test_may_be_a_megabyte(self, gateway: RunningGateway) -> None:
        data = base64.b64encode(bytes(1_000_000)).decode()
        source = {"url": f"data:application/octet-stream;base64,{data}"}
        answer = await gateway.submit(json={"input": source})
        assert answer.status_code == 202, answer.text

    @pytest.mark.parametrize(
        ("uri", "status", "text"),
        [
            ("data:image/gif;base64", 400, "input.url: a data: URI needs a comma"),
            ("data:image/gif;base64,?", 400, "input.url: the content of the data: URI is not"),
            ("data:image/gif;base64,R0lG\ud800", 400, "the data: URI is not valid base64"),
            ("data:text/plain,\ud800", 400, "the data: URI is not valid text"),
            ("data:gif;base64,R0lG", 400, "input.url: the data: URI has no valid media type"),
            ("data:image/jpeg;base64,R0lGODlh", 415, "the content is image/gif"),
            ("data:,", 422, "the input is empty"),
        ],
    )
    async def test_error_names_the_fault(
        self, gateway: RunningGateway, uri: str, status: int, text: str
    ) -> None:
        body, kind = json.dumps({"input": {"url": uri}}), {"content-type": "application/json"}
        answer = await gateway.submit(content=body, headers=kind)
        assert (answer.status_code, text in answer.json()["detail"]) == (status, True), answer.text
