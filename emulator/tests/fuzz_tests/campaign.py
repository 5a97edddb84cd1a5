"""Send malformed AMQP frames and HTTP requests to the services of the emulator."""

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blobs_tests.sdk.blob_servers import ACCOUNT
from emulator.servicebus.accepted_sessions import SESSION_FILTER
from emulator.servicebus.amqp.connection import AMQP_HEADER, SASL_HEADER
from emulator.servicebus.amqp.frames import SASL_FRAME, encode_frame
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Flow,
    Open,
    Performative,
    SaslInit,
)
from emulator.servicebus.amqp.types import Described, Symbol, UByte, UInt, ULong
from fuzz_tests.fuzzed_services import (
    DURABLE,
    FUZZED_CONTAINER,
    FUZZED_QUEUE,
    FUZZED_SESSION_QUEUE,
    FUZZED_TOPIC,
    KEY,
    KEY_NAME,
    FuzzedServices,
    ServiceFailure,
    check_services,
    running_services,
)
from fuzz_tests.malformed import HttpTemplate, make_frame, make_http_request, mutate

BATCH = 1000
LIMIT_SECONDS = 30.0
_CONNECTIONS = 40
_FRAMES_OF_A_CONNECTION = 4
_SILENCE_SECONDS = 0.15
_ENTRY = (
    b'<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
    b'<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">'
    b"<LockDuration>PT30S</LockDuration><MaxDeliveryCount>5</MaxDeliveryCount>"
    b"<RequiresDuplicateDetection>true</RequiresDuplicateDetection><Status>SendDisabled</Status>"
    b"</QueueDescription></content></entry>"
)
_RULE = (
    b'<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
    b'<RuleDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"'
    b' xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><Filter i:type="SqlFilter">'
    b"<SqlExpression>a IN (1, 'x') AND sys.Label LIKE 'b%'</SqlExpression></Filter>"
    b'<Action i:type="SqlRuleAction"><SqlExpression>SET a = a + 1</SqlExpression></Action>'
    b"</RuleDescription></content></entry>"
)
_TOPIC = _ENTRY.replace(b"QueueDescription", b"TopicDescription")
_SUBSCRIPTION = _ENTRY.replace(b"QueueDescription", b"SubscriptionDescription")
_BLOCK_LIST = b'<?xml version="1.0"?><BlockList><Latest>AAAA</Latest></BlockList>'
_PROPERTIES = (
    b'<?xml version="1.0"?><StorageServiceProperties><Cors><CorsRule>'
    b"<AllowedOrigins>http://localhost</AllowedOrigins><AllowedMethods>GET</AllowedMethods>"
    b"<AllowedHeaders>*</AllowedHeaders><ExposedHeaders>*</ExposedHeaders>"
    b"<MaxAgeInSeconds>5</MaxAgeInSeconds></CorsRule></Cors></StorageServiceProperties>"
)
_SUBSCRIPTIONS = f"/{FUZZED_TOPIC}/Subscriptions"
_BLOB = f"/{ACCOUNT}/{FUZZED_CONTAINER}/blob-{{id}}"
_LEASE = (("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "15"))
_TAGS = b"<Tags><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tags>"
_BLOCK_BLOB = (("x-ms-blob-type", "BlockBlob"),)
_INSTANCE = f"{DURABLE}/instances/fuzz-{{id}}"
_JSON = (("content-type", "application/json"),)

ADMIN_TEMPLATES = (
    HttpTemplate("GET", f"/{FUZZED_QUEUE}?api-version=2021-05"),
    HttpTemplate("PUT", "/other-{id}?api-version=2021-05", (), _ENTRY),
    HttpTemplate("PUT", "/other-{id}?api-version=2021-05", (("if-match", "*"),), _ENTRY),
    HttpTemplate("DELETE", "/other-{id}?api-version=2021-05"),
    HttpTemplate("GET", "/$Resources/queues?api-version=2021-05&$skip=0&$top=100"),
    HttpTemplate("PUT", f"/{FUZZED_TOPIC}?api-version=2021-05", (), _TOPIC),
    HttpTemplate("PUT", f"{_SUBSCRIPTIONS}/sub-{{id}}?api-version=2021-05", (), _SUBSCRIPTION),
    HttpTemplate("PUT", f"{_SUBSCRIPTIONS}/sub-{{id}}/Rules/r?api-version=2021-05", (), _RULE),
    HttpTemplate("GET", f"{_SUBSCRIPTIONS}/sub-{{id}}/Rules?api-version=2021-05&$top=2"),
    HttpTemplate("DELETE", f"{_SUBSCRIPTIONS}/sub-{{id}}/Rules/$Default?api-version=2021-05"),
    HttpTemplate("DELETE", f"{_SUBSCRIPTIONS}/sub-{{id}}?api-version=2021-05"),
    HttpTemplate("GET", "/$emulator/topics"),
    HttpTemplate("GET", "/$emulator/faults"),
    HttpTemplate("PUT", "/$emulator/faults", _JSON, b'{"latency_ms": 0}'),
    HttpTemplate("PUT", "/$emulator/faults", _JSON, b'{"throttled_share": 0.0}'),
    HttpTemplate("POST", "/$emulator/detach", _JSON, b'{"queue": "queue"}'),
    HttpTemplate("GET", "/$emulator/authorizationRules"),
    HttpTemplate("PUT", "/$emulator/authorizationRules/rule-{id}", _JSON, b'{"rights": ["Send"]}'),
    HttpTemplate("DELETE", "/$emulator/authorizationRules/rule-{id}"),
    HttpTemplate("GET", "/health"),
)
BLOB_TEMPLATES = (
    HttpTemplate("PUT", _BLOB, _BLOCK_BLOB, b"content"),
    HttpTemplate("PUT", _BLOB, (*_BLOCK_BLOB, ("x-ms-meta-a", "b")), b"content"),
    HttpTemplate("GET", _BLOB, (("x-ms-range", "bytes=0-3"),)),
    HttpTemplate("HEAD", _BLOB),
    HttpTemplate("DELETE", _BLOB),
    HttpTemplate("PUT", f"{_BLOB}?comp=block&blockid=AAAA", (), b"block"),
    HttpTemplate("PUT", f"{_BLOB}?comp=blocklist", (), _BLOCK_LIST),
    HttpTemplate("GET", f"{_BLOB}?comp=blocklist&blocklisttype=all"),
    HttpTemplate("PUT", f"{_BLOB}?comp=metadata", (("x-ms-meta-a", "b"),)),
    HttpTemplate("PUT", f"{_BLOB}?comp=properties", (("x-ms-blob-content-type", "a/b"),)),
    HttpTemplate("PUT", f"{_BLOB}?comp=lease", _LEASE),
    HttpTemplate("PUT", f"{_BLOB}?comp=lease", (("x-ms-lease-action", "break"),)),
    HttpTemplate("PUT", f"{_BLOB}?comp=snapshot"),
    HttpTemplate("PUT", f"{_BLOB}?comp=tags", (), _TAGS),
    HttpTemplate("GET", f"{_BLOB}?comp=tags"),
    HttpTemplate("PUT", f"{_BLOB}-append", (("x-ms-blob-type", "AppendBlob"),)),
    HttpTemplate("PUT", f"{_BLOB}-append?comp=appendblock", (), b"more"),
    HttpTemplate("PUT", f"{_BLOB}-copy", (("x-ms-copy-source", f"http://localhost{_BLOB}"),)),
    HttpTemplate("GET", f"/{ACCOUNT}/{FUZZED_CONTAINER}?restype=container&comp=list&prefix=b"),
    HttpTemplate("PUT", f"/{ACCOUNT}/other-{{id}}?restype=container"),
    HttpTemplate("DELETE", f"/{ACCOUNT}/other-{{id}}?restype=container"),
    HttpTemplate("GET", f"/{ACCOUNT}?comp=list&include=metadata"),
    HttpTemplate("PUT", f"/{ACCOUNT}?restype=service&comp=properties", (), _PROPERTIES),
    HttpTemplate(
        "OPTIONS",
        _BLOB,
        (("origin", "http://localhost"), ("access-control-request-method", "GET")),
    ),
)
HOST_TEMPLATES = (
    HttpTemplate("POST", "/api/orders/fuzz-{id}", (), b""),
    HttpTemplate("GET", "/api/orders/fuzz-{id}"),
    HttpTemplate("GET", "/"),
    HttpTemplate("GET", "/admin/host/status"),
    HttpTemplate("GET", "/admin/functions/place"),
    HttpTemplate("POST", "/admin/functions/issue", _JSON, b'{"input": "x"}'),
)
MANAGEMENT_TEMPLATES = (
    HttpTemplate("POST", f"{DURABLE}/orchestrators/order/fuzz-{{id}}", _JSON, b'{"a": [1, null]}'),
    HttpTemplate("POST", f"{DURABLE}/orchestrators/shipment?timeout=1&pollingInterval=1"),
    HttpTemplate("GET", f"{_INSTANCE}?showHistory=true&showHistoryOutput=true&showInput=false"),
    HttpTemplate("POST", f"{_INSTANCE}/raiseEvent/payment", _JSON, b'{"a": "b"}'),
    HttpTemplate("POST", f"{_INSTANCE}/terminate?reason=x"),
    HttpTemplate("POST", f"{_INSTANCE}/suspend?reason=x"),
    HttpTemplate("POST", f"{_INSTANCE}/resume?reason=x"),
    HttpTemplate("POST", f"{_INSTANCE}/rewind?reason=x"),
    HttpTemplate("POST", f"{_INSTANCE}/restart?restartWithNewInstanceId=false"),
    HttpTemplate("DELETE", _INSTANCE),
    HttpTemplate("GET", f"{DURABLE}/instances?top=5&runtimeStatus=Running,Failed"),
    HttpTemplate("DELETE", f"{DURABLE}/instances?createdTimeFrom=2026-01-01T00:00:00Z"),
    HttpTemplate("GET", f"{DURABLE}/entities"),
)

#: Receives the seconds since the start, and the process id of each service.
Observer = Callable[[float, Mapping[str, int]], None]


@dataclass
class FuzzResult:
    """The counts, the longest response time and the failures of a fuzz test.

    Attributes:
        sent: The number of malformed frames and requests, by the name of the API that received
            them.
        statuses: The number of HTTP responses, by API and status, such as `blobs: 400`. The status
            `none` means that no response arrived.
        longest_seconds: The longest time that a service needed for the valid requests of one check.
        violations: A sentence for each failure.
    """

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


async def run_fuzz(
    count: int,
    seed: int,
    observe: Observer = lambda _, __: None,
    is_observed: Callable[[float], bool] = lambda _: True,
) -> FuzzResult:
    """Send at least `count` malformed frames and requests, half and half, and check the services.

    `observe` gets the seconds since the start and the process ids before each batch. The test
    continues until `is_observed` accepts the seconds.
    """
    result = FuzzResult()
    with tempfile.TemporaryDirectory(prefix="fuzz-emulators-") as folder:
        async with running_services(Path(folder)) as services:
            campaign = _Campaign(services, result, random.Random(f"fuzz {seed}"))
            begun_at = time.monotonic()
            try:
                result.longest_seconds = await check_services(services, LIMIT_SECONDS)
                while result.sent.total() < count or not is_observed(time.monotonic() - begun_at):
                    pids = {name: each.pid for name, each in services.processes.items()}
                    observe(time.monotonic() - begun_at, pids)
                    await campaign.run_batch(min(BATCH, max(1, count - result.sent.total())))
                    seconds = await check_services(services, LIMIT_SECONDS)
                    result.longest_seconds = max(result.longest_seconds, seconds)
            except ServiceFailure as failure:
                result.violations.append(
                    f"after {result.sent.total()} frames and requests: {failure}"
                )
            result.violations += [
                f"{number} unhandled exceptions in the log of {line}"
                for line, number in services.find_tracebacks().items()
            ]
            result.violations += services.find_ended()
    return result


class _Campaign:
    def __init__(self, services: FuzzedServices, result: FuzzResult, chance: random.Random) -> None:
        self._result = result
        self._chance = chance
        self._amqp_port = services.amqp_port
        signed = tuple(
            HttpTemplate(
                each.method,
                f"{each.target}{'&' if '?' in each.target else '?'}{services.signature}",
                each.headers,
                each.body,
            )
            for each in BLOB_TEMPLATES
        )
        self._http = (
            ("Service Bus management API", services.admin_port, ADMIN_TEMPLATES),
            ("blobs", services.blobs_port, signed),
            ("Functions host", services.functions_port, HOST_TEMPLATES),
            ("Durable management API", services.functions_port, MANAGEMENT_TEMPLATES),
        )

    async def run_batch(self, count: int) -> None:
        """Send `count` frames and requests over several simultaneous connections."""
        frames = [make_frame(self._chance) for _ in range((count + 1) // 2)]
        work = [
            self._make_connection(frames[at : at + _FRAMES_OF_A_CONNECTION])
            for at in range(0, len(frames), _FRAMES_OF_A_CONNECTION)
        ]
        for number in range(count // 2):
            name, port, templates = self._http[number % len(self._http)]
            data = make_http_request(self._chance.choice(templates), self._chance)
            work.append(self._make_exchange(name, port, data))
        self._chance.shuffle(work)
        limit = asyncio.Semaphore(_CONNECTIONS)

        async def run(each: Callable[[], Awaitable[None]]) -> None:
            async with limit:
                with contextlib.suppress(OSError):
                    await each()

        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(run(each))

    def _make_connection(self, frames: list[bytes]) -> Callable[[], Awaitable[None]]:
        setup = mutate(SETUP, self._chance) if self._chance.random() < 0.05 else SETUP

        async def connect() -> None:
            self._result.sent["AMQP frames"] += len(frames)
            await _exchange(self._amqp_port, [setup, *frames], is_cut=False)

        return connect

    def _make_exchange(self, name: str, port: int, data: bytes) -> Callable[[], Awaitable[None]]:
        is_cut = self._chance.random() < 0.1

        async def connect() -> None:
            self._result.sent[name] += 1
            received = await _exchange(port, [data], is_cut=is_cut)
            status = received[9:12].decode("latin-1") if received else "none"
            self._result.statuses[f"{name}: {status}"] += 1

        return connect


async def _exchange(port: int, pieces: list[bytes], *, is_cut: bool) -> bytes:
    """Send bytes on a new connection. Return the bytes received until the service stops sending.

    If `is_cut` is true, close the connection at once, and return no bytes.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        for piece in pieces:
            writer.write(piece)
        if is_cut:
            return b""
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                if not (data := await reader.read(65536)):
                    break
            received += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return received


def _attach(
    handle: int, *, role: bool, address: str, own: str = "replies", session: str | None = None
) -> Performative:
    """Return the performative that attaches a link to `address`."""
    here, there = Described(ULong(0x28), [address]), Described(ULong(0x29), [own])
    if session is not None:
        accepted = {Symbol(SESSION_FILTER): Described(Symbol(SESSION_FILTER), session)}
        here = Described(ULong(0x28), [address, *[None] * 6, accepted])
    if not role:
        here, there = Described(ULong(0x28), [own]), Described(ULong(0x29), [address])
    return Attach(
        f"link-{handle}",
        UInt(handle),
        role=role,
        snd_settle_mode=UByte(0) if role else None,  # type: ignore[arg-type]
        rcv_settle_mode=UByte(1) if role else None,  # type: ignore[arg-type]
        source=here,
        target=there,
        initial_delivery_count=None if role else UInt(0),
    )


def _credit(handle: int) -> Performative:
    return Flow(
        next_incoming_id=UInt(0),
        incoming_window=UInt(1000),
        handle=UInt(handle),
        delivery_count=UInt(0),
        link_credit=UInt(20),
    )


def _make_setup() -> bytes:
    """Return the valid bytes that open an AMQP connection and attach links.

    There are links to a queue, to a topic, to the topic's subscription, and to a queue with message
    sessions. Further links go to the `$management` nodes of both queues and of the subscription,
    and to the node `$cbs`.
    """
    init = SaslInit(Symbol("PLAIN"), f"\0{KEY_NAME}\0{KEY}".encode())
    management = f"{FUZZED_QUEUE}/$management"
    performatives: list[Performative] = [
        Open("fuzz", max_frame_size=UInt(65536)),
        Begin(next_outgoing_id=UInt(0), incoming_window=UInt(1000), outgoing_window=UInt(1000)),
        _attach(0, role=False, address=FUZZED_QUEUE),
        _attach(1, role=True, address=FUZZED_QUEUE),
        _attach(2, role=False, address=management),
        _attach(3, role=True, address=management),
        _attach(4, role=False, address="$cbs"),
        _attach(5, role=True, address="$cbs"),
        _attach(6, role=False, address=FUZZED_TOPIC),
        _attach(7, role=True, address=f"{FUZZED_TOPIC}/Subscriptions/sub-1"),
        _attach(8, role=False, address=f"{FUZZED_TOPIC}/Subscriptions/sub-1/$management"),
        _attach(9, role=False, address=FUZZED_SESSION_QUEUE),
        _attach(10, role=True, address=FUZZED_SESSION_QUEUE, session="session"),
        _attach(11, role=False, address=f"{FUZZED_SESSION_QUEUE}/$management"),
        *(_credit(handle) for handle in (1, 3, 5, 7, 10)),
    ]
    return b"".join(
        (
            SASL_HEADER,
            encode_frame(init.encode(), frame_type=SASL_FRAME),
            AMQP_HEADER,
            *(encode_frame(each.encode()) for each in performatives),
        )
    )


SETUP = _make_setup()
