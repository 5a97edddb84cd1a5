"""Functions with the ready-made web extension, which the tests call."""

# mypy: disable-error-code="untyped-decorator"
# The decorators of azure.durable_functions are not annotated.

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import (
    JSONResponse,
    Request,
    Response,
    StreamingResponse,
)

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(route="noop", methods=["GET", "HEAD"])
async def noop(req: Request) -> str:
    return "ok"


@app.route(route="size", methods=["POST"])
async def size(req: Request) -> JSONResponse:
    count, total = 0, 0
    async for chunk in req.stream():
        count, total = count + bool(chunk), total + len(chunk)
    return JSONResponse({"bytes": total, "chunks": count})


@app.route(route="events")
async def events(req: Request) -> StreamingResponse:
    async def run() -> AsyncIterator[str]:
        try:
            while True:
                yield "data: x\n\n"
                await asyncio.sleep(0.02)
        finally:
            logging.info("the generator is closed")

    return StreamingResponse(run(), media_type="text/event-stream")


@app.route(route="times")
async def times(req: Request) -> StreamingResponse:
    async def run() -> AsyncIterator[str]:
        for _ in range(10):
            yield f"data: {time.time()}\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(run(), media_type="text/event-stream")


@app.route(route="gone")
async def gone(req: Request) -> Response:
    while not await req.is_disconnected():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.01)
    logging.info("disconnected")
    return Response()


@app.route(route="broken")
async def broken(req: Request) -> Response:
    raise ValueError("broken on purpose")


@app.route(route="raw/{*path}")
async def raw(req: Request, context: func.Context) -> JSONResponse:
    return JSONResponse(
        {
            "raw_path": req.scope["raw_path"].decode(),
            "path": req.path_params,
            "query": dict(req.query_params),
            "headers": dict(req.headers),
            "client": req.client,
            "scheme": req.url.scheme,
            "invocation": context.invocation_id,
        }
    )


@app.route(route="start", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: Request, client: df.DurableOrchestrationClient) -> JSONResponse:
    instance_id = await client.start_new("chain", None, await req.json())
    return JSONResponse(client.create_http_management_payload(instance_id))


@app.route(route="{*path}", methods=["GET"])
async def whatever(req: Request) -> Response:
    return Response("ours")


@app.orchestration_trigger(context_name="context")
def chain(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    return (yield context.call_activity("double", context.get_input()))


@app.activity_trigger(input_name="number")
def double(number: int) -> int:
    return number * 2
