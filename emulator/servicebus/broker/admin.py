"""The management API over HTTP, as ``ServiceBusAdministrationClient`` speaks it, and ``/health``.

The client always builds https URLs, even with ``UseDevelopmentEmulator=true`` (7.15.0 sets its
TLS option, and never reads it). So a plain port needs a client with a transport that turns the
scheme round, and an unchanged client needs a front that ends TLS.
"""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode
from xml.etree.ElementTree import Element

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulator.servicebus.broker.atom import (
    AtomError,
    error_document,
    feed,
    queue_entry,
    read_description,
    to_bytes,
)
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import SystemClock
from emulator.servicebus.broker.description import (
    changed_settings,
    count_details,
    properties_of,
    settings_from,
)
from emulator.servicebus.broker.errors import ArgumentError, BrokerError, EntityNotFound
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.sas import SasError, verify_sas

_MAX_BODY_BYTES = 64 * 1024
_MAX_PAGE_LENGTH = 100
_Handler = Callable[[Request], Awaitable[Response]]


def create_admin_app(broker: Broker, keys: Mapping[str, str] | None = None) -> Starlette:
    """Return the app; it must run on the broker's event loop.

    With ``keys`` (name to key) every request but ``/health`` needs a shared access signature;
    without, whoever reaches the port may manage the queues.
    """
    api = _Api(broker, keys)
    return Starlette(
        routes=[
            Route("/health", api.health),
            Route("/$Resources/{kind}", api.edge(api.list)),
            Route("/{name:path}", api.edge(api.get)),
            Route("/{name:path}", api.edge(api.put), methods=["PUT"]),
            Route("/{name:path}", api.edge(api.delete), methods=["DELETE"]),
        ]
    )


class _Api:
    """What the routes do."""

    def __init__(self, broker: Broker, keys: Mapping[str, str] | None) -> None:
        self._broker = broker
        self._keys = keys
        self._clock = SystemClock()

    def edge(self, handler: _Handler) -> _Handler:
        """Let a handler run for those who may, and turn refusals into answers."""

        async def handle(request: Request) -> Response:
            try:
                if self._keys is not None:
                    token = request.headers.get("Authorization", "")
                    verify_sas(token, self._keys, request.url.path, self._clock.now())
                return await handler(request)
            except SasError as error:
                return _refusal(401, str(error))
            except AtomError as error:
                return _refusal(400, str(error))
            except BrokerError as error:
                return _refusal(error.status_code, str(error))

        return handle

    async def health(self, _: Request) -> Response:
        """Say that the loop runs and the database is open."""
        return JSONResponse({"status": "ok", "queues": len(self._broker.queues())})

    async def list(self, request: Request) -> Response:
        """Answer one page of all queues; topics are listed too, there being none."""
        kind = request.path_params["kind"].casefold()
        if kind not in {"queues", "topics"}:
            raise EntityNotFound(f"there is no resource {kind[:100]!r}")
        queues = self._broker.queues() if kind == "queues" else ()
        skip, top = _page(request)
        page = queues[skip : skip + top]
        next_url = None
        if skip + top < len(queues):
            query = urlencode({"$skip": skip + top, "$top": top})
            next_url = str(request.url.replace(query=query))
        entries = [_entry(request, queue) for queue in page]
        return _atom(feed(str(request.url), entries, next_url))

    async def get(self, request: Request) -> Response:
        """Answer one queue, and an empty feed where there is none, as Azure does."""
        try:
            queue = self._find(request)
        except EntityNotFound:
            return _atom(feed(str(request.url), (), None))
        return _atom(to_bytes(_entry(request, queue)))

    async def put(self, request: Request) -> Response:
        """Create a queue, or with ``If-Match`` change one."""
        properties = read_description(await _body(request), "QueueDescription")
        if "If-Match" in request.headers:
            queue = self._find(request)
            settings = changed_settings(queue.settings, properties)
            queue = await self._broker.update_queue(settings)
            return _atom(to_bytes(_entry(request, queue)))
        settings = settings_from(request.path_params["name"], properties)
        queue = await self._broker.create_queue(settings)
        return _atom(to_bytes(_entry(request, queue)), status_code=201)

    async def delete(self, request: Request) -> Response:
        """Delete a queue with its messages."""
        await self._broker.delete_queue(request.path_params["name"])
        return Response(status_code=200)

    def _find(self, request: Request) -> Queue:
        queue = self._broker.queue(request.path_params["name"])
        if queue.is_subqueue:
            raise EntityNotFound("a dead-letter queue is described with its queue")
        return queue


def _page(request: Request) -> tuple[int, int]:
    numbers = []
    for name, default in (("$skip", 0), ("$top", _MAX_PAGE_LENGTH)):
        text = request.query_params.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ArgumentError(f"{name}: must be a whole number")
        numbers.append(int(text))
    skip, top = numbers
    return skip, min(max(top, 1), _MAX_PAGE_LENGTH)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ArgumentError(f"the body is over {_MAX_BODY_BYTES} bytes")
    return bytes(body)


def _entry(request: Request, queue: Queue) -> Element:
    counts = queue.counts()
    url = str(request.url.replace(path=f"/{queue.address}"))
    return queue_entry(
        url, queue.address, properties_of(queue.settings, counts), count_details(counts)
    )


def _atom(body: bytes, status_code: int = 200) -> Response:
    return Response(body, status_code, media_type="application/atom+xml;type=entry;charset=utf-8")


def _refusal(status_code: int, detail: str) -> Response:
    return Response(error_document(status_code, detail), status_code, media_type="application/xml")
