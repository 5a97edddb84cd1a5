"""HTTP functions that the tests call."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import azure.functions as func
from neighbour import GREETING  # type: ignore[import-not-found]  # a module in the folder of the app

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
blueprint = func.Blueprint()  # type: ignore[no-untyped-call]  # not annotated in azure.functions


def reply(value: object, status: int = 200) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(value), status_code=status, mimetype="application/json")


@app.route(route="noop", auth_level=func.AuthLevel.ANONYMOUS)
async def noop(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("ok")


@app.route(route="echo/{kind:alpha}/{number:int}", methods=["GET", "POST"])
async def echo(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    return reply(
        {
            "method": req.method,
            "url": req.url,
            "route": dict(req.route_params),
            "query": dict(req.params),
            "header": req.headers.get("X-Test"),
            "body": req.get_body().decode(),
            "function": context.function_name,
            "invocation": context.invocation_id,
            "trace": context.trace_context.trace_parent,
            "folder": context.function_directory,
        }
    )


@app.route(route="size", methods=["POST"])
def size(req: func.HttpRequest) -> func.HttpResponse:
    return reply(len(req.get_body()))


@app.route(route="large")
def large(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b"x" * int(req.params["bytes"]), mimetype="application/octet-stream")


@app.route(route="files/{*path}")
def files(req: func.HttpRequest) -> func.HttpResponse:
    return reply({"files": req.route_params.get("path")})


@app.route(route="files/readme")
def readme(req: func.HttpRequest) -> func.HttpResponse:
    return reply({"literal": True})


@app.route(route="by-id/{id:guid}")
def by_guid(req: func.HttpRequest) -> func.HttpResponse:
    return reply({"guid": req.route_params["id"]})


@app.route(route="by-id/{name}")
def by_name(req: func.HttpRequest) -> func.HttpResponse:
    return reply({"name": req.route_params["name"]})


@blueprint.route(route="text")
def text(req: func.HttpRequest) -> str:
    return str(GREETING)


@app.route(route="cookies")
def cookies(req: func.HttpRequest) -> func.HttpResponse:
    response = func.HttpResponse("", status_code=201, headers={"X-One": "1"})
    response.headers.add("Set-Cookie", "a=1; Path=/; HttpOnly")
    response.headers.add("Set-Cookie", "b=2; Max-Age=60")
    return response


@app.route(route="status")
def status(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("text", status_code=int(req.params["status"]))


@app.route(route="latin")
def latin(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("Grüße", charset="latin-1")


@app.route(route="nothing")
def nothing(req: func.HttpRequest) -> func.HttpResponse:
    return None  # type: ignore[return-value]  # the response to this is tested


@app.route(route="broken")
def broken(req: func.HttpRequest) -> func.HttpResponse:
    logging.warning("about to fail: %s", "one\ntwo\x1b[2J")
    raise ValueError("broken on purpose")


@app.route(route="leaves")
def leaves(req: func.HttpRequest) -> func.HttpResponse:
    sys.exit(3)


@app.route(route="smuggle")
def smuggle(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("", headers={"X-Bad": req.params["value"]})


@app.route(route="block")
def block(req: func.HttpRequest) -> func.HttpResponse:
    """Block a thread until the test writes to a named pipe. Return the written text."""
    return func.HttpResponse(Path(req.params["until"]).read_text())


@app.route(route="hang")
async def hang(req: func.HttpRequest) -> func.HttpResponse:
    logging.warning("hanging")
    await asyncio.sleep(3600)
    return func.HttpResponse("never")


@app.route(route="environment")
def environment(req: func.HttpRequest) -> func.HttpResponse:
    return reply(
        {
            "settings": {name: os.environ.get(name) for name in req.params["names"].split(",")},
            "cwd": str(Path.cwd()),
            "path": sys.path,
            "modules": sorted(sys.modules),
        }
    )


@app.route(route="imports")
def imports(req: func.HttpRequest) -> func.HttpResponse:
    try:
        __import__(req.params["name"])
    except ImportError as error:
        return reply(str(error), 404)
    return reply("found")


app.register_functions(blueprint)
