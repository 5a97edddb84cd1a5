"""Serve the management API for `ServiceBusAdministrationClient`, and `/health`, over HTTP.

Requests and responses are Atom entries that contain the description of a queue, a topic, a
subscription or a rule ("Service Bus REST API", learn.microsoft.com).

A request needs the access right `Manage`, either for the queue or topic in its path or for the
namespace.

The client in azure-servicebus 7.15.0 always uses https URLs, even if the connection string contains
`UseDevelopmentEmulator=true`. But this management API is served without TLS. To use the client,
give the client a transport that changes https to http, or run a proxy that terminates TLS.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product
from typing import TypeVar
from urllib.parse import urlencode
from xml.etree.ElementTree import Element, SubElement

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from emulator.clock import WallClock
from emulator.servicebus.access import AccessPolicies, check_keys
from emulator.servicebus.atom import (
    COUNTS,
    INSTANCE,
    SERVICE_BUS,
    AtomError,
    add_element,
    error_document,
    feed,
    parse_entry,
    read_description,
    start_entry,
    to_bytes,
)
from emulator.servicebus.broker.authorization import (
    AccessRight,
    AuthorizationRule,
    make_missing_keys,
    read_rights,
    sorted_rights,
)
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.durations import (
    UNBOUNDED,
    bounded,
    format_duration,
    parse_duration,
)
from emulator.servicebus.broker.errors import ArgumentError, BrokerError, EntityNotFound
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import (
    DEFAULT_DUPLICATE_WINDOW,
    RESERVED_NAME,
    STANDARD_MESSAGE_BYTES,
    QueueCounts,
    QueueSettings,
    QueueStatus,
    SubscriptionSettings,
    TopicSettings,
    check_name,
    subscription_address,
)
from emulator.servicebus.broker.topic import Topic, TopicSubscription
from emulator.servicebus.fault_routes import fault_routes
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.policy_routes import policy_routes
from emulator.servicebus.rule_descriptions import (
    RULE_DESCRIPTION,
    read_default_rule,
    read_rule,
    rule_entry,
)
from emulator.servicebus.sas import SasError, verify_sas
from emulator.servicebus.tracking import add_tracking

_MAX_BODY_BYTES = 64 * 1024
_MAX_PAGE_LENGTH = 100
_NAMESPACE = "sbemulatorns"
_Handler = Callable[[Request], Awaitable[Response]]
_Item = TypeVar("_Item")


def create_admin_app(
    broker: Broker, namespace: Namespace, policies: AccessPolicies, *, needs_token: bool = True
) -> Starlette:
    """Return the ASGI app of the management API, for the broker's event loop.

    Unless `needs_token`, requests without a signature are accepted, and policies may have
    Microsoft's public key.
    """
    api = _Api(broker, namespace, needs_token=needs_token)
    return Starlette(
        middleware=[Middleware(_TokenCheck, policies=policies, needs_token=needs_token)],
        routes=[
            Route(f"/{RESERVED_NAME}", api.health),
            *fault_routes(namespace),
            *policy_routes(broker, policies, needs_token=needs_token),
            Route("/$emulator/topics", api.topics),
            Route("/$Resources/{kind}", api.wrap(api.list)),
            Route("/$namespaceinfo", api.namespace_info),
            *_topic_routes(api),
            Route("/{name:path}", api.wrap(api.get)),
            Route("/{name:path}", api.wrap(api.put), methods=["PUT"]),
            Route("/{name:path}", api.wrap(api.delete), methods=["DELETE"]),
        ],
        exception_handlers={ClientDisconnect: _end_request},
    )


def _topic_routes(api: "_Api") -> list[Route]:
    """Return the routes for subscriptions and rules, which some clients write in upper case."""
    routes = []
    spellings = product(("subscriptions", "Subscriptions"), ("rules", "Rules"))
    for subscriptions, rules in spellings:
        listed = f"/{{topic:path}}/{subscriptions}"
        one = f"{listed}/{{subscription}}"
        rule = f"{one}/{rules}/{{rule}}"
        routes += [
            Route(rule, api.wrap(api.get_rule)),
            Route(rule, api.wrap(api.put_rule), methods=["PUT"]),
            Route(rule, api.wrap(api.delete_rule), methods=["DELETE"]),
            Route(f"{one}/{rules}", api.wrap(api.list_rules)),
            Route(one, api.wrap(api.get_subscription)),
            Route(one, api.wrap(api.put_subscription), methods=["PUT"]),
            Route(one, api.wrap(api.delete_subscription), methods=["DELETE"]),
            Route(listed, api.wrap(api.list_subscriptions)),
        ]
    return routes


async def _end_request(_: Request, __: Exception) -> Response:
    """End a request whose client disconnected before it had sent the whole body."""
    return Response(status_code=400)


_CLAIMS = {"PUT": "EntityWrite", "DELETE": "EntityDelete"}


class _TokenCheck:
    """ASGI middleware that answers 401 if a request lacks a signature with the right `Manage`.

    GET and HEAD for `/health` need none. Unless `needs_token`, no request needs one, but the
    signature of a request is still verified.
    """

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

    def __init__(self, broker: Broker, namespace: Namespace, *, needs_token: bool) -> None:
        self._broker = broker
        self._needs_token = needs_token
        self._namespace = namespace
        self._started_at = _format_time(WallClock().now())

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

    async def namespace_info(self, request: Request) -> Response:
        """Return the properties of the namespace, which has the name of Microsoft's emulator."""
        entry, description = start_entry(str(request.url), _NAMESPACE, "NamespaceInfo")
        for name, value in (
            ("CreatedTime", self._started_at),
            ("MessagingSKU", "Standard"),
            ("ModifiedTime", self._started_at),
            ("Name", _NAMESPACE),
            ("NamespaceType", "Messaging"),
        ):
            add_element(description, SERVICE_BUS, name, value)
        return _atom(to_bytes(entry))

    async def list(self, request: Request) -> Response:
        """Return a page of queues or topics. Raises EntityNotFound for other paths."""
        kind = request.path_params["kind"].casefold()
        if kind not in {"queues", "topics"}:
            raise EntityNotFound(f"$Resources/{kind}")
        found: Sequence[Queue]
        found = self._broker.queues() if kind == "queues" else self._broker.topics()
        return _feed(request, found, lambda queue: _entry(request, queue))

    async def get(self, request: Request) -> Response:
        """Return the description of a queue or topic, or an empty feed, as Azure does."""
        try:
            queue = self._find(request)
        except EntityNotFound:
            return _atom(feed(str(request.url), (), None))
        return _atom(to_bytes(_entry(request, queue)))

    async def put(self, request: Request) -> Response:
        """Create a queue or topic, or update it and detach the links that its status forbids."""
        body = await _body(request)
        description = parse_entry(body, _QUEUE_DESCRIPTION, _TOPIC_DESCRIPTION)
        properties, rules = read_description(description), read_rules(description)
        if self._needs_token:
            check_keys(rules or ())
        kind = TopicSettings if description.tag.endswith(_TOPIC_DESCRIPTION) else QueueSettings
        name = request.path_params["name"]
        if "If-Match" in request.headers:
            queue = self._find(request)
            if queue.settings.KIND != kind.KIND:
                raise ArgumentError(
                    f"{name[:300]!r} is a {queue.settings.KIND} and cannot become a {kind.KIND}"
                )
            return await self._update(request, queue, properties, rules)
        settings = settings_from(name, properties, rules or (), kind)
        check_name(settings.name)
        if isinstance(settings, TopicSettings):
            queue = await self._broker.create_topic(settings)
        else:
            queue = await self._broker.create_queue(settings)
        return _atom(to_bytes(_entry(request, queue)), status_code=201)

    async def _update(
        self,
        request: Request,
        queue: Queue,
        properties: Mapping[str, str],
        rules: Sequence[AuthorizationRule] | None,
    ) -> Response:
        settings = changed_settings(queue.settings, properties, rules)
        queue = await self._broker.update_queue(settings)
        self._namespace.detach_disabled_links(queue)
        return _atom(to_bytes(_entry(request, queue)))

    async def delete(self, request: Request) -> Response:
        """Delete a queue or topic with all its messages."""
        await self._broker.delete_queue(request.path_params["name"])
        return Response(status_code=200)

    def _find(self, request: Request) -> Queue:
        queue = self._broker.queue(request.path_params["name"])
        if queue.is_subqueue:
            raise EntityNotFound(queue.address)  # only main queues have descriptions
        return queue

    # Topics

    async def topics(self, _: Request) -> Response:
        """Respond with each topic's count of messages that no subscription selected."""
        return JSONResponse(
            [
                {"name": topic.address, "dropped_messages": topic.dropped_count}
                for topic in self._broker.topics()
            ]
        )

    async def list_subscriptions(self, request: Request) -> Response:
        """Return one page of the list of a topic's subscriptions."""
        topic = self._broker.topic(request.path_params["topic"])
        return _feed(request, topic.subscriptions, lambda each: _entry(request, each))

    async def get_subscription(self, request: Request) -> Response:
        """Return the description of a subscription, or an empty feed if it does not exist."""
        try:
            subscription = self._find_subscription(request)
        except EntityNotFound:
            return _atom(feed(str(request.url), (), None))
        return _atom(to_bytes(_entry(request, subscription)))

    async def put_subscription(self, request: Request) -> Response:
        """Create a subscription with a rule, or update it if the request has `If-Match`."""
        description = parse_entry(await _body(request), _SUBSCRIPTION_DESCRIPTION)
        properties = read_description(description)
        if "If-Match" in request.headers:
            return await self._update(request, self._find_subscription(request), properties, None)
        rule = read_default_rule(description)
        parameters = request.path_params
        name = subscription_address(parameters["topic"], parameters["subscription"])
        settings = settings_from(name, properties, kind=SubscriptionSettings)
        assert isinstance(settings, SubscriptionSettings)
        if rule is not None:
            settings = replace(settings, rules=(rule,))
        subscription = await self._broker.create_subscription(settings)
        return _atom(to_bytes(_entry(request, subscription)), status_code=201)

    async def delete_subscription(self, request: Request) -> Response:
        """Delete a subscription with all its messages."""
        await self._broker.delete_queue(self._find_subscription(request).address)
        return Response(status_code=200)

    async def list_rules(self, request: Request) -> Response:
        """Return one page of the list of a subscription's rules."""
        rules = self._find_subscription(request).rules
        return _feed(request, rules, lambda rule: rule_entry(f"{request.url}/{rule.name}", rule))

    async def get_rule(self, request: Request) -> Response:
        """Return the description of a rule, or an empty feed if the rule does not exist."""
        try:
            rule = self._find_subscription(request).find_rule(request.path_params["rule"])
        except EntityNotFound:
            return _atom(feed(str(request.url), (), None))
        return _atom(to_bytes(rule_entry(str(request.url), rule)))

    async def put_rule(self, request: Request) -> Response:
        """Create a rule, or replace it if the request has the header `If-Match`."""
        description = parse_entry(await _body(request), RULE_DESCRIPTION)
        rule = read_rule(request.path_params["rule"], description)
        subscription = self._find_subscription(request)
        is_update = "If-Match" in request.headers
        if is_update:
            await subscription.replace_rule(rule)
        else:
            await subscription.add_rule(rule)
        body = to_bytes(rule_entry(str(request.url), rule))
        return _atom(body, status_code=200 if is_update else 201)

    async def delete_rule(self, request: Request) -> Response:
        """Delete a rule."""
        await self._find_subscription(request).remove_rule(request.path_params["rule"])
        return Response(status_code=200)

    def _find_subscription(self, request: Request) -> TopicSubscription:
        parameters = request.path_params
        return self._broker.subscription(parameters["topic"], parameters["subscription"])


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


def _feed(
    request: Request, items: Sequence[_Item], describe: Callable[[_Item], Element]
) -> Response:
    """Respond with one page of `items`; the request's query says which page."""
    skip, top = _page(request)
    next_url = None
    if skip + top < len(items):
        query = urlencode({"$skip": skip + top, "$top": top})
        next_url = str(request.url.replace(query=query))
    entries = [describe(item) for item in items[skip : skip + top]]
    return _atom(feed(str(request.url), entries, next_url))


def _entry(request: Request, queue: Queue) -> Element:
    counts = queue.counts()
    url = str(request.url.replace(path=f"/{queue.address}"))
    return entity_entry(url, queue, counts)


def _atom(body: bytes, status_code: int = 200) -> Response:
    return Response(body, status_code, media_type="application/atom+xml;type=entry;charset=utf-8")


def _refusal(status_code: int, detail: str) -> Response:
    return Response(error_document(status_code, detail), status_code, media_type="application/xml")


_MEGABYTE = 1024 * 1024
_FORWARDING = "ForwardTo", "ForwardDeadLetteredMessagesTo"
_REFUSED_IF_TRUE = ("EnablePartitioning",)


def properties_of(queue: Queue, counts: QueueCounts) -> list[tuple[str, str]]:
    """Return the properties of a queue's description as (name, value) pairs, in Azure's order."""
    settings = queue.settings
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
        ("EnableBatchedOperations", _flag(settings.enable_batched_operations)),
        ("SizeInBytes", str(counts.size_bytes)),
        ("MessageCount", str(counts.total)),
        ("IsAnonymousAccessible", "false"),
        ("Status", settings.status.value),
        *((("UserMetadata", settings.user_metadata),) if settings.user_metadata else ()),
        ("CreatedAt", _format_time(queue.created_at)),
        ("UpdatedAt", _format_time(queue.updated_at)),
        ("AccessedAt", _format_time(queue.accessed_at)),
        ("SupportOrdering", "true"),
        ("AutoDeleteOnIdle", format_duration(settings.auto_delete_on_idle or UNBOUNDED)),
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


_TOPIC_PROPERTIES = frozenset(
    (
        "AccessedAt",
        "AutoDeleteOnIdle",
        "CreatedAt",
        "DefaultMessageTimeToLive",
        "DuplicateDetectionHistoryTimeWindow",
        "EnableBatchedOperations",
        "EnableExpress",
        "EnablePartitioning",
        "EntityAvailabilityStatus",
        "IsAnonymousAccessible",
        "MaxMessageSizeInKilobytes",
        "MaxSizeInMegabytes",
        "RequiresDuplicateDetection",
        "SizeInBytes",
        "Status",
        "SupportOrdering",
        "UpdatedAt",
        "UserMetadata",
    )
)
_SUBSCRIPTION_PROPERTIES = frozenset(
    (
        "AccessedAt",
        "AutoDeleteOnIdle",
        "CreatedAt",
        "DeadLetteringOnMessageExpiration",
        "DefaultMessageTimeToLive",
        "EnableBatchedOperations",
        "EntityAvailabilityStatus",
        "LockDuration",
        "MaxDeliveryCount",
        "MessageCount",
        "RequiresSession",
        "Status",
        "UpdatedAt",
        "UserMetadata",
    )
)
_FILTER_EXCEPTIONS = "DeadLetteringOnFilterEvaluationExceptions"
_FILTER_EXCEPTIONS_FIELD = "dead_lettering_on_filter_evaluation_exceptions"


def topic_properties(topic: Topic, counts: QueueCounts) -> list[tuple[str, str]]:
    """Return the properties of a topic's description as (name, value) pairs."""
    own = properties_of(topic, counts)
    found = [(name, value) for name, value in own if name in _TOPIC_PROPERTIES]
    return [*found, ("SubscriptionCount", str(len(topic.subscriptions)))]


def subscription_properties(
    subscription: TopicSubscription, counts: QueueCounts
) -> list[tuple[str, str]]:
    """Return the properties of a subscription's description as (name, value) pairs."""
    own = properties_of(subscription, counts)
    settings = subscription.settings
    assert isinstance(settings, SubscriptionSettings)
    found = [(name, value) for name, value in own if name in _SUBSCRIPTION_PROPERTIES]
    flag = _flag(settings.dead_lettering_on_filter_evaluation_exceptions)
    return [*found, (_FILTER_EXCEPTIONS, flag)]


def settings_from(
    name: str,
    properties: Mapping[str, str],
    rules: Sequence[AuthorizationRule] = (),
    kind: type[QueueSettings] = QueueSettings,
) -> QueueSettings:
    """Convert the properties in a description to the settings of a queue, topic or subscription.

    Raises ArgumentError if a property is invalid or not supported.
    """
    for forwarding in _FORWARDING:
        if properties.get(forwarding):
            raise ArgumentError(
                f"{forwarding}: omit this property, because forwarding is not supported"
            )
    for refused in _REFUSED_IF_TRUE:
        if _read_flag(properties, refused):
            raise ArgumentError(f"{refused}: expected false, because true is not supported")
    status = properties.get("Status", QueueStatus.ACTIVE)
    if status not in set(QueueStatus):
        raise ArgumentError(f"Status: expected {', '.join(QueueStatus)}, found {status[:100]!r}")
    time_to_live = bounded(_read_duration(properties, "DefaultMessageTimeToLive", UNBOUNDED))
    window = _read_duration(
        properties, "DuplicateDetectionHistoryTimeWindow", DEFAULT_DUPLICATE_WINDOW
    )
    detects_duplicates = _read_flag(properties, "RequiresDuplicateDetection")
    further = {}
    if kind is SubscriptionSettings:
        further[_FILTER_EXCEPTIONS_FIELD] = _read_flag(properties, _FILTER_EXCEPTIONS, "true")
    return kind(
        name=name,
        lock_duration=_read_duration(properties, "LockDuration", timedelta(minutes=1)),
        max_delivery_count=_read_number(properties, "MaxDeliveryCount", 10),
        default_message_time_to_live=time_to_live,
        dead_lettering_on_message_expiration=_read_flag(
            properties, "DeadLetteringOnMessageExpiration"
        ),
        duplicate_detection_window=window if detects_duplicates else None,
        max_message_bytes=_read_number(
            properties, "MaxMessageSizeInKilobytes", STANDARD_MESSAGE_BYTES // 1024
        )
        * 1024,
        max_size_bytes=_read_number(properties, "MaxSizeInMegabytes", 1024) * _MEGABYTE,
        requires_session=_read_flag(properties, "RequiresSession"),
        status=QueueStatus(status),
        authorization_rules=tuple(rules),
        user_metadata=properties.get("UserMetadata", ""),
        enable_batched_operations=_read_flag(properties, "EnableBatchedOperations", "true"),
        auto_delete_on_idle=bounded(_read_duration(properties, "AutoDeleteOnIdle", UNBOUNDED)),
        **further,
    )


def changed_settings(
    before: QueueSettings,
    properties: Mapping[str, str],
    rules: Sequence[AuthorizationRule] | None = None,
) -> QueueSettings:
    """Return the settings after an update, which resets what the request does not have.

    The policies stay if `rules` is None. Raises ArgumentError if a property is invalid, not
    supported, or cannot be changed.
    """
    policies = before.authorization_rules if rules is None else rules
    after = settings_from(before.name, properties, policies, type(before))
    if (before.duplicate_detection_window is None) != (after.duplicate_detection_window is None):
        raise ArgumentError("RequiresDuplicateDetection: this property cannot be changed")
    if before.requires_session != after.requires_session:
        raise ArgumentError("RequiresSession: this property cannot be changed")
    if isinstance(before, SubscriptionSettings):
        return replace(after, rules=before.rules)  # type: ignore[call-arg] # of the same class
    return after


def _format_time(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _read_flag(properties: Mapping[str, str], name: str, default: str = "false") -> bool:
    value = properties.get(name, default).lower()
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


_RULES = "AuthorizationRules"
_QUEUE_DESCRIPTION = "QueueDescription"
_TOPIC_DESCRIPTION = "TopicDescription"
_SUBSCRIPTION_DESCRIPTION = "SubscriptionDescription"


def read_rules(description: Element) -> list[AuthorizationRule] | None:
    """Return the policies in a description, with keys for those without; None if it has none.

    Raises ArgumentError if a policy is invalid.
    """
    listed = description.find(f"{{{SERVICE_BUS}}}{_RULES}")
    if listed is None:
        return None
    rules = []
    for each in listed.findall(f"{{{SERVICE_BUS}}}AuthorizationRule"):
        values = read_description(each)
        names = each.iterfind(f"{{{SERVICE_BUS}}}Rights/{{{SERVICE_BUS}}}AccessRights")
        rights = read_rights((name.text or "").strip() for name in names)
        keys = make_missing_keys(values.get("PrimaryKey"), values.get("SecondaryKey"))
        rules.append(AuthorizationRule(values.get("KeyName", ""), rights, *keys))
    return rules


def entity_entry(url: str, queue: Queue, counts: QueueCounts) -> Element:
    """Return the Atom entry that describes a queue, topic or subscription."""
    settings = queue.settings
    title = queue.address
    if isinstance(queue, Topic):
        kind, properties = _TOPIC_DESCRIPTION, topic_properties(queue, counts)
    elif isinstance(queue, TopicSubscription) and isinstance(settings, SubscriptionSettings):
        kind, properties = _SUBSCRIPTION_DESCRIPTION, subscription_properties(queue, counts)
        title = settings.subscription_name
    else:
        kind, properties = _QUEUE_DESCRIPTION, properties_of(queue, counts)
    entry, description = start_entry(url, title, kind)
    for property_name, value in properties:
        # The policies are before the status, as in Azure. A subscription has none.
        if property_name == "Status" and kind != _SUBSCRIPTION_DESCRIPTION:
            _add_rules(description, settings.authorization_rules)
        add_element(description, SERVICE_BUS, property_name, value)
    details = SubElement(description, f"{{{SERVICE_BUS}}}CountDetails")
    for count_name, count in count_details(counts):
        add_element(details, COUNTS, count_name, str(count))
    return entry


def _add_rules(description: Element, rules: Iterable[AuthorizationRule]) -> None:
    listed = SubElement(description, f"{{{SERVICE_BUS}}}{_RULES}")
    for rule in rules:
        element = SubElement(listed, f"{{{SERVICE_BUS}}}AuthorizationRule")
        element.set(f"{{{INSTANCE}}}type", "SharedAccessAuthorizationRule")
        add_element(element, SERVICE_BUS, "ClaimType", "SharedAccessKey")
        add_element(element, SERVICE_BUS, "ClaimValue", "None")
        rights = SubElement(element, f"{{{SERVICE_BUS}}}Rights")
        for name in sorted_rights(rule.rights):
            add_element(rights, SERVICE_BUS, "AccessRights", name)
        add_element(element, SERVICE_BUS, "KeyName", rule.name)
        add_element(element, SERVICE_BUS, "PrimaryKey", rule.primary_key)
        if rule.secondary_key:
            add_element(element, SERVICE_BUS, "SecondaryKey", rule.secondary_key)
