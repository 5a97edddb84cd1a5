"""Serve the management API for `ServiceBusAdministrationClient`, and `/health`, over HTTP.

Requests and responses are Atom entries that contain a QueueDescription ("Service Bus REST API",
learn.microsoft.com).

A request needs the right Manage, for the queue or for the namespace.

The client in azure-servicebus 7.15.0 always uses https URLs, even if the connection string contains
`UseDevelopmentEmulator=true`. But this management API is served without TLS. To use the client,
give the client a transport that changes https to http, or run a proxy that terminates TLS.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn
from urllib.parse import urlencode
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from emulator.servicebus.access import AccessPolicies, check_keys
from emulator.servicebus.broker.authorization import (
    AccessRight,
    AuthorizationRule,
    make_missing_keys,
    read_rights,
    sorted_rights,
)
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import WallClock
from emulator.servicebus.broker.errors import ArgumentError, BrokerError, EntityNotFound
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import (
    DEFAULT_DUPLICATE_WINDOW,
    RESERVED_NAME,
    UNBOUNDED,
    QueueCounts,
    QueueSettings,
    QueueStatus,
    check_name,
    format_duration,
    parse_duration,
)
from emulator.servicebus.fault_routes import fault_routes
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.policy_routes import policy_routes
from emulator.servicebus.sas import SasError, verify_sas
from emulator.servicebus.tracking import add_tracking

_MAX_BODY_BYTES = 64 * 1024
_MAX_PAGE_LENGTH = 100
_Handler = Callable[[Request], Awaitable[Response]]


def create_admin_app(
    broker: Broker,
    namespace: Namespace | None = None,
    policies: AccessPolicies | None = None,
    *,
    needs_token: bool = True,
) -> Starlette:
    """Return the ASGI app of the management API. The app must run on the broker's event loop.

    Args:
        broker: The broker of the queues.
        namespace: The namespace that serves the broker's queues. If it is None, the app has no
            routes for faults, and a change of a queue's status does not detach links.
        policies: The policies with whose keys requests are signed. If it is None, no signature is
            verified, and the app has no routes for policies.
        needs_token: Whether each request needs a signature, except GET and HEAD for `/health`.
            Then no policy can have the public key, either. Otherwise, requests without a signature
            are accepted too, but a signature in a request is still verified.
    """
    api = _Api(broker, namespace, needs_token=needs_token and policies is not None)
    further = [] if namespace is None else fault_routes(namespace)
    middleware = []
    if policies is not None:
        further += policy_routes(broker, policies, needs_token=needs_token)
        middleware.append(Middleware(_TokenCheck, policies=policies, needs_token=needs_token))
    return Starlette(
        middleware=middleware,
        routes=[
            Route(f"/{RESERVED_NAME}", api.health),
            *further,
            Route("/$Resources/{kind}", api.wrap(api.list)),
            Route("/{name:path}", api.wrap(api.get)),
            Route("/{name:path}", api.wrap(api.put), methods=["PUT"]),
            Route("/{name:path}", api.wrap(api.delete), methods=["DELETE"]),
        ],
        exception_handlers={ClientDisconnect: _end_request},
    )


async def _end_request(_: Request, __: Exception) -> Response:
    """End a request whose client disconnected before it had sent the whole body.

    The client does not receive the response.
    """
    return Response(status_code=400)


_CLAIMS = {"PUT": "EntityWrite", "DELETE": "EntityDelete"}


class _TokenCheck:
    """ASGI middleware that answers 401 if a request's signature does not give the right Manage."""

    def __init__(self, app: ASGIApp, policies: AccessPolicies, *, needs_token: bool) -> None:
        self._app = app
        self._policies = policies
        self._needs_token = needs_token
        self._clock = WallClock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the app if its signature gives access, otherwise answer 401."""
        request = Request(scope)
        is_health = scope["path"] == f"/{RESERVED_NAME}" and scope["method"] in {"GET", "HEAD"}
        refusal = None if is_health else self._find_refusal(request)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _find_refusal(self, request: Request) -> Response | None:
        token = request.headers.get("Authorization")
        if token is None and not self._needs_token:
            return None
        path = request.scope["path"]
        try:
            rights = verify_sas(token or "", self._policies, path, self._clock.now())
        except SasError as error:
            return _refusal(401, str(error))
        if AccessRight.MANAGE in rights:
            return None
        claim = _CLAIMS.get(request.method, "EntityRead")
        text = f"Manage,{claim} claims required for this operation."
        return _refusal(401, add_tracking(text, path.strip("/")))


class _Api:
    """The request handlers of the management API."""

    def __init__(self, broker: Broker, namespace: Namespace | None, *, needs_token: bool) -> None:
        self._broker = broker
        self._needs_token = needs_token
        self._namespace = namespace

    def wrap(self, handler: _Handler) -> _Handler:
        """Return a handler that calls `handler` and converts errors to error responses."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except AtomError as error:
                return _refusal(400, str(error))
            except BrokerError as error:
                return _refusal(error.status_code, str(error))

        return handle

    async def health(self, _: Request) -> Response:
        """Return status 200 and the number of queues."""
        return JSONResponse({"status": "ok", "queues": len(self._broker.queues())})

    async def list(self, request: Request) -> Response:
        """Return one page of the list of queues.

        If the request asks for topics, return an empty page, because the emulator has no topics.
        Raises EntityNotFound if the request asks for anything else.
        """
        kind = request.path_params["kind"].casefold()
        if kind not in {"queues", "topics"}:
            raise EntityNotFound(f"$Resources/{kind}")
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
        """Return the description of a queue.

        If the queue does not exist, return an empty feed, as Azure does.
        """
        try:
            queue = self._find(request)
        except EntityNotFound:
            return _atom(feed(str(request.url), (), None))
        return _atom(to_bytes(_entry(request, queue)))

    async def put(self, request: Request) -> Response:
        """Create a queue, or update an existing queue if the request has the header `If-Match`.

        If the new status of a queue forbids the use of links, these links are detached.
        """
        description = parse_entry(await _body(request), "QueueDescription")
        properties, rules = read_description(description), read_rules(description)
        if self._needs_token:
            check_keys(rules or ())
        if "If-Match" in request.headers:
            queue = self._find(request)
            settings = changed_settings(queue.settings, properties, rules)
            queue = await self._broker.update_queue(settings)
            if self._namespace is not None:
                self._namespace.detach_disabled_links(queue)
            return _atom(to_bytes(_entry(request, queue)))
        settings = settings_from(request.path_params["name"], properties, rules or ())
        check_name(settings.name)
        queue = await self._broker.create_queue(settings)
        return _atom(to_bytes(_entry(request, queue)), status_code=201)

    async def delete(self, request: Request) -> Response:
        """Delete a queue and all its messages."""
        await self._broker.delete_queue(request.path_params["name"])
        return Response(status_code=200)

    def _find(self, request: Request) -> Queue:
        queue = self._broker.queue(request.path_params["name"])
        if queue.is_subqueue:
            raise EntityNotFound(queue.address)  # only main queues have descriptions
        return queue


def _page(request: Request) -> tuple[int, int]:
    numbers = []
    for name, default in (("$skip", 0), ("$top", _MAX_PAGE_LENGTH)):
        text = request.query_params.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ArgumentError(f"{name}: expected a whole number, found {text[:100]!r}")
        numbers.append(int(text))
    skip, top = numbers
    return skip, min(max(top, 1), _MAX_PAGE_LENGTH)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ArgumentError(f"the request body exceeds {_MAX_BODY_BYTES} bytes")
    return bytes(body)


def _entry(request: Request, queue: Queue) -> Element:
    counts = queue.counts()
    url = str(request.url.replace(path=f"/{queue.address}"))
    return queue_entry(url, queue, counts)


def _atom(body: bytes, status_code: int = 200) -> Response:
    return Response(body, status_code, media_type="application/atom+xml;type=entry;charset=utf-8")


def _refusal(status_code: int, detail: str) -> Response:
    return Response(error_document(status_code, detail), status_code, media_type="application/xml")


_MEGABYTE = 1024 * 1024
_FORWARDING = "ForwardTo", "ForwardDeadLetteredMessagesTo"
_REFUSED_IF_TRUE = ("EnablePartitioning",)


def properties_of(settings: QueueSettings, counts: QueueCounts) -> list[tuple[str, str]]:
    """Return the properties of a queue's description as (name, value) pairs, in Azure's order."""
    return [
        ("LockDuration", format_duration(settings.lock_duration)),
        ("MaxSizeInMegabytes", str(max(1, settings.max_size_bytes // _MEGABYTE))),
        ("RequiresDuplicateDetection", _flag(settings.duplicate_detection_window is not None)),
        ("RequiresSession", _flag(settings.requires_session)),
        (
            "DefaultMessageTimeToLive",
            format_duration(settings.default_message_time_to_live or UNBOUNDED),
        ),
        (
            "DeadLetteringOnMessageExpiration",
            _flag(settings.dead_lettering_on_message_expiration),
        ),
        (
            "DuplicateDetectionHistoryTimeWindow",
            format_duration(settings.duplicate_detection_window or DEFAULT_DUPLICATE_WINDOW),
        ),
        ("MaxDeliveryCount", str(settings.max_delivery_count)),
        ("EnableBatchedOperations", "true"),
        ("SizeInBytes", str(counts.size_bytes)),
        ("MessageCount", str(counts.total)),
        ("IsAnonymousAccessible", "false"),
        ("Status", settings.status.value),
        ("SupportOrdering", "true"),
        ("AutoDeleteOnIdle", format_duration(UNBOUNDED)),
        ("EnablePartitioning", "false"),
        ("EntityAvailabilityStatus", "Available"),
        ("EnableExpress", "false"),
        ("MaxMessageSizeInKilobytes", str(settings.max_message_bytes // 1024)),
    ]


def count_details(counts: QueueCounts) -> list[tuple[str, int]]:
    """Return the message counts of a queue as (XML element name, count) pairs, in Azure's order."""
    return [
        ("ActiveMessageCount", counts.active),
        ("DeadLetterMessageCount", counts.dead_letter),
        ("ScheduledMessageCount", counts.scheduled),
        ("TransferDeadLetterMessageCount", counts.transfer_dead_letter),
        ("TransferMessageCount", 0),
    ]


def settings_from(
    name: str, properties: Mapping[str, str], rules: Sequence[AuthorizationRule] = ()
) -> QueueSettings:
    """Convert the properties of a QueueDescription to the settings of the queue `name`.

    `rules` are the shared access policies in the description. Raises ArgumentError if a property is
    invalid or not supported.
    """
    for forwarding in _FORWARDING:
        if properties.get(forwarding):
            raise ArgumentError(f"{forwarding}: forwarding is not supported")
    for refused in _REFUSED_IF_TRUE:
        if _read_flag(properties, refused):
            raise ArgumentError(f"{refused}: expected false, because true is not supported")
    status = properties.get("Status", QueueStatus.ACTIVE)
    if status not in set(QueueStatus):
        raise ArgumentError(f"Status: expected {', '.join(QueueStatus)}, found {status[:100]!r}")
    if _read_duration(properties, "AutoDeleteOnIdle", UNBOUNDED) < UNBOUNDED:
        raise ArgumentError("AutoDeleteOnIdle: omit this property, because it is not supported")
    time_to_live = _read_duration(properties, "DefaultMessageTimeToLive", UNBOUNDED)
    window = _read_duration(
        properties, "DuplicateDetectionHistoryTimeWindow", DEFAULT_DUPLICATE_WINDOW
    )
    detects_duplicates = _read_flag(properties, "RequiresDuplicateDetection")
    return QueueSettings(
        name=name,
        lock_duration=_read_duration(properties, "LockDuration", timedelta(minutes=1)),
        max_delivery_count=_read_number(properties, "MaxDeliveryCount", 10),
        default_message_time_to_live=time_to_live if time_to_live < UNBOUNDED else None,
        dead_lettering_on_message_expiration=_read_flag(
            properties, "DeadLetteringOnMessageExpiration"
        ),
        duplicate_detection_window=window if detects_duplicates else None,
        max_message_bytes=_read_number(properties, "MaxMessageSizeInKilobytes", 256) * 1024,
        max_size_bytes=_read_number(properties, "MaxSizeInMegabytes", 1024) * _MEGABYTE,
        requires_session=_read_flag(properties, "RequiresSession"),
        status=QueueStatus(status),
        authorization_rules=tuple(rules),
    )


def changed_settings(
    before: QueueSettings,
    properties: Mapping[str, str],
    rules: Sequence[AuthorizationRule] | None = None,
) -> QueueSettings:
    """Return the new settings of a queue after an update request.

    `before` contains the queue's old settings. `properties` contains the properties in the request,
    and `rules` its shared access policies. If `rules` is None, the policies do not change. Other
    settings for which the request has no property are reset to their default values.

    Raises ArgumentError if a property is invalid, not supported, or cannot be changed.
    """
    after = settings_from(
        before.name, properties, before.authorization_rules if rules is None else rules
    )
    if (before.duplicate_detection_window is None) != (after.duplicate_detection_window is None):
        raise ArgumentError("RequiresDuplicateDetection: this property cannot be changed")
    if before.requires_session != after.requires_session:
        raise ArgumentError("RequiresSession: this property cannot be changed")
    return replace(after, name=before.name)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _read_flag(properties: Mapping[str, str], name: str) -> bool:
    value = properties.get(name, "false").lower()
    if value not in {"true", "false", "1", "0"}:
        raise ArgumentError(f"{name}: expected true or false, found {value[:100]!r}")
    return value in {"true", "1"}


def _read_number(properties: Mapping[str, str], name: str, default: int) -> int:
    value = properties.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ArgumentError(f"{name}: expected a whole number, found {value[:100]!r}")
    return int(value)


def _read_duration(properties: Mapping[str, str], name: str, default: timedelta) -> timedelta:
    if name not in properties:
        return default
    try:
        return parse_duration(properties[name])
    except ValueError as error:
        raise ArgumentError(f"{name}: {error}") from error


_ATOM = "http://www.w3.org/2005/Atom"
_SERVICE_BUS = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_RULES = "AuthorizationRules"

ElementTree.register_namespace("", _ATOM)
ElementTree.register_namespace("sb", _SERVICE_BUS)
ElementTree.register_namespace("d", _COUNTS)
ElementTree.register_namespace("i", _INSTANCE)


class AtomError(Exception):
    """The body of a request is not an Atom entry with the expected element, a QueueDescription."""


class _Builder(ElementTree.TreeBuilder):
    """A builder of XML trees that refuses documents with a document type declaration.

    Only such a declaration can define entities, which can expand to a huge document.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise AtomError("the request body must not contain a document type declaration")


def parse_entry(body: bytes, kind: str) -> Element:
    """Parse an Atom entry and return the XML element that contains its description.

    `kind` is the name of this element, for example `QueueDescription`. Raises AtomError if the XML
    is invalid or has no such element.
    """
    try:
        root = ElementTree.fromstring(body, ElementTree.XMLParser(target=_Builder()))  # noqa: S314 - _Builder refuses entities
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AtomError(f"the request body is not valid XML: {error}") from error
    description = root.find(f"{{{_ATOM}}}content/{{{_SERVICE_BUS}}}{kind}")
    if description is None:
        raise AtomError(f"the request body is not an Atom entry that contains a {kind}")
    return description


def read_description(description: Element) -> dict[str, str]:
    """Return the properties of a description by their names."""
    return {
        each.tag.removeprefix(f"{{{_SERVICE_BUS}}}"): (each.text or "").strip()
        for each in description
    }


def read_rules(description: Element) -> list[AuthorizationRule] | None:
    """Return the shared access policies in a description. None if it has no element for them.

    If a policy has no keys, keys are generated. Raises ArgumentError if a policy is
    invalid.
    """
    listed = description.find(f"{{{_SERVICE_BUS}}}{_RULES}")
    if listed is None:
        return None
    rules = []
    for each in listed.findall(f"{{{_SERVICE_BUS}}}AuthorizationRule"):
        values = read_description(each)
        names = each.iterfind(f"{{{_SERVICE_BUS}}}Rights/{{{_SERVICE_BUS}}}AccessRights")
        rights = read_rights((name.text or "").strip() for name in names)
        keys = make_missing_keys(values.get("PrimaryKey"), values.get("SecondaryKey"))
        rules.append(AuthorizationRule(values.get("KeyName", ""), rights, *keys))
    return rules


def queue_entry(url: str, queue: Queue, counts: QueueCounts) -> ElementTree.Element:
    """Return the Atom entry that describes a queue. `url` is the URL of the queue."""
    entry = ElementTree.Element(f"{{{_ATOM}}}entry")
    _add(entry, _ATOM, "id", url)
    _add(entry, _ATOM, "title", queue.address).set("type", "text")
    content = ElementTree.SubElement(entry, f"{{{_ATOM}}}content", {"type": "application/xml"})
    description = ElementTree.SubElement(content, f"{{{_SERVICE_BUS}}}QueueDescription")
    for property_name, value in properties_of(queue.settings, counts):
        if property_name == "Status":  # the policies are before the status, as in Azure
            _add_rules(description, queue.settings.authorization_rules)
        _add(description, _SERVICE_BUS, property_name, value)
    details = ElementTree.SubElement(description, f"{{{_SERVICE_BUS}}}CountDetails")
    for count_name, count in count_details(counts):
        _add(details, _COUNTS, count_name, str(count))
    return entry


def _add_rules(description: Element, rules: Iterable[AuthorizationRule]) -> None:
    listed = ElementTree.SubElement(description, f"{{{_SERVICE_BUS}}}{_RULES}")
    for rule in rules:
        element = ElementTree.SubElement(listed, f"{{{_SERVICE_BUS}}}AuthorizationRule")
        element.set(f"{{{_INSTANCE}}}type", "SharedAccessAuthorizationRule")
        _add(element, _SERVICE_BUS, "ClaimType", "SharedAccessKey")
        _add(element, _SERVICE_BUS, "ClaimValue", "None")
        rights = ElementTree.SubElement(element, f"{{{_SERVICE_BUS}}}Rights")
        for name in sorted_rights(rule.rights):
            _add(rights, _SERVICE_BUS, "AccessRights", name)
        _add(element, _SERVICE_BUS, "KeyName", rule.name)
        _add(element, _SERVICE_BUS, "PrimaryKey", rule.primary_key)
        if rule.secondary_key:
            _add(element, _SERVICE_BUS, "SecondaryKey", rule.secondary_key)


def feed(url: str, entries: Iterable[ElementTree.Element], next_url: str | None) -> bytes:
    """Return an Atom feed that contains one page of entries.

    If `next_url` is not None, the feed links to the next page.
    """
    root = ElementTree.Element(f"{{{_ATOM}}}feed")
    _add(root, _ATOM, "id", url)
    _add(root, _ATOM, "title", "Publicly Listed Services").set("type", "text")
    ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "self", "href": url})
    if next_url is not None:
        ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "next", "href": next_url})
    root.extend(entries)
    return to_bytes(root)


def error_document(code: int, detail: str) -> bytes:
    """Return the XML document that is the body of an error response."""
    root = ElementTree.Element("Error")
    ElementTree.SubElement(root, "Code").text = str(code)
    ElementTree.SubElement(root, "Detail").text = _printable(detail)
    return to_bytes(root)


def to_bytes(root: ElementTree.Element) -> bytes:
    """Encode an XML document in UTF-8. `root` is the root element of the document."""
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _add(parent: ElementTree.Element, namespace: str, name: str, text: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{namespace}}}{name}")
    child.text = text
    return child


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
