"""Make malformed AMQP frames and HTTP requests from valid ones.

Most functions have the argument `chance`, a random generator. All their random choices come from
this generator, so its seed determines the result.
"""

import random
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.servicebus.amqp.codec import encode, encode_composite, encode_list
from emulator.servicebus.amqp.errors import DecodeError
from emulator.servicebus.amqp.frames import encode_frame
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    Transfer,
    read_performative,
)
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    PROPERTIES,
    VALUE,
    encode_section,
)
from emulator.servicebus.amqp.types import (
    Array,
    Described,
    Int,
    Long,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from servicebus_tests.amqp.dotnet_frames import CASES

_HEADER_BYTES = 8
_Maker = Callable[[random.Random, int], Any]
_EXTREME_BYTES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\x40", b"\x45", b"\xd0", b"\xf0")
_EXTREME_TEXTS = ("", "\x00", "\ud7ff", "..", "/", "%", "$cbs", "queue", "a" * 300, "é", "\r\n")
_OPERATIONS = (
    "renew-lock",
    "peek-message",
    "schedule-message",
    "cancel-scheduled-message",
    "receive-by-sequence-number",
    "update-disposition",
    "renew-session-lock",
    "set-session-state",
    "get-session-state",
    "get-message-sessions",
    "add-rule",
    "remove-rule",
    "enumerate-rules",
)
_REQUEST_FIELDS = (
    "lock-tokens",
    "from-sequence-number",
    "message-count",
    "messages",
    "sequence-numbers",
    "receiver-settle-mode",
    "disposition-status",
    "deadletter-reason",
    "deadletter-description",
    "properties-to-modify",
    "session-id",
    "session-state",
    "last-updated-time",
    "skip",
    "top",
    "rule-name",
    "rule-description",
)
_SQL_TEXTS = (
    "a = 1",
    "NOT (sys.Label LIKE '%_' ESCAPE '\\' OR a IN (1, 'x', @p))",
    "((((((((1 = 1))))))))",
    "a + -b * 1e400 / 0 % 0 IS NOT NULL",
    "'unterminated",
    "[a]]b] EXISTS",
    "SET a = 1; REMOVE b",
    "-" * 1100,
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with one to three random changes: bytes replaced, cut, inserted or repeated."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.randint(1, 8))
        match chance.randrange(6):
            case 0:
                changed[at:end] = chance.choice(_EXTREME_BYTES) * (end - at)
            case 1:
                changed[at:end] = chance.randbytes(end - at)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = chance.randbytes(chance.randint(1, 20))
            case 4:
                changed[at:at] = changed[at : at + chance.randint(1, 200)]
            case 5:
                del changed[at:]
    return bytes(changed)


# AMQP


def make_value(chance: random.Random, depth: int = 0) -> Any:
    """Return a random AMQP value of any type. Many numbers and texts are extreme."""
    makers = (*_PLAIN_VALUES, *_NESTED_VALUES) if depth < _MAX_DEPTH else _PLAIN_VALUES
    return chance.choice(makers)(chance, depth + 1)


_MAX_DEPTH = 3
_PLAIN_VALUES: tuple[_Maker, ...] = (
    lambda _, __: None,
    lambda chance, _: chance.random() < 0.5,
    lambda chance, _: chance.choice((UInt, ULong, Int, Long))(chance.choice((0, 1, 2, 2**31 - 1))),
    lambda chance, _: chance.choice((UByte(255), UShort(65535), UInt(2**32 - 1), ULong(2**64 - 1))),
    lambda chance, _: chance.choice((Int(-(2**31)), Long(-(2**63)), Long(2**63 - 1))),
    lambda chance, _: chance.choice(_EXTREME_TEXTS),
    lambda chance, _: Symbol(
        chance.choice(("", "amqp:accepted:list", "com.microsoft:x", "a" * 300))
    ),
    lambda chance, _: chance.choice(
        (chance.randbytes(chance.randrange(40)), uuid.UUID(int=0), 0.5)
    ),
    lambda chance, _: Timestamp(chance.choice((0, -(2**63), 2**63 - 1, 1_800_000_000_000))),
)
_NESTED_VALUES: tuple[_Maker, ...] = (
    lambda chance, depth: [make_value(chance, depth) for _ in range(chance.randrange(4))],
    lambda chance, depth: {
        key: make_value(chance, depth) for key in chance.sample(_EXTREME_TEXTS, chance.randrange(4))
    },
    lambda chance, depth: Described(
        ULong(chance.choice((0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x33, 0x70))),
        [make_value(chance, depth) for _ in range(chance.randrange(8))],
    ),
)


def _recorded_bodies() -> list[bytes]:
    """Return the bodies of recorded AMQP frames, which Microsoft's SDK for .NET has sent."""
    return [
        octets[_HEADER_BYTES:]
        for case in CASES.values()
        for channel, name, octets in case
        if channel != "-" and name != "SaslInit" and len(octets) > _HEADER_BYTES
    ]


def _own_performatives() -> list[Performative]:
    """Return valid performatives of all types that a client can send on an open connection."""
    source, target = Described(ULong(0x28), ["queue"]), Described(ULong(0x29), ["queue"])
    return [
        Open("other", max_frame_size=UInt(4096), idle_time_out=UInt(1000)),
        Begin(next_outgoing_id=UInt(0), incoming_window=UInt(5), outgoing_window=UInt(5)),
        Attach("sender", UInt(10), role=False, target=target, initial_delivery_count=UInt(0)),
        Attach("receiver", UInt(11), role=True, source=source),
        Flow(UInt(0), UInt(100), UInt(0), UInt(100), UInt(1), UInt(0), UInt(5), drain=True),
        Flow(UInt(0), UInt(100), UInt(0), UInt(100), echo=True),
        Transfer(UInt(0), UInt(1), b"tag", UInt(0)),
        Transfer(UInt(0), UInt(1), b"tag", UInt(0), more=True),
        Disposition(role=True, first=UInt(0), last=UInt(9), state=Described(ULong(0x24), [])),
        Disposition(role=True, first=UInt(0), settled=True, state=Described(ULong(0x27), [True])),
        Detach(UInt(1), closed=True),
        End(),
        Close(),
    ]


_RECORDED = _recorded_bodies()
_OWN = _own_performatives()


def make_request(chance: random.Random) -> bytes:
    """Return a request message to `$management`, in which some fields have wrong values."""
    fields = chance.sample(_REQUEST_FIELDS, chance.randint(1, 5))
    value: Any = {name: _make_field(name, chance) for name in fields}
    if chance.random() < 0.05:
        value = make_value(chance)
    operation: Any = "com.microsoft:" + chance.choice(_OPERATIONS)
    if chance.random() < 0.1:
        operation = make_value(chance)
    properties: list[Any] = [make_value(chance), None, None, None, "replies"]
    if chance.random() < 0.1:
        properties = [make_value(chance) for _ in range(chance.randrange(14))]
    return b"".join(
        (
            b"\x00\x53" + bytes((PROPERTIES,)) + encode_list(properties),
            encode_section(APPLICATION_PROPERTIES, {"operation": operation}),
            encode_section(VALUE, value),
        )
    )


def _make_field(name: str, chance: random.Random) -> Any:
    make = _FIELDS.get(name)
    if make is None:
        return chance.choice((Long(1), Long(-1), Int(2**31 - 1), "reason", make_value(chance)))
    return make_value(chance) if chance.random() < 0.3 else make(chance)


_FIELDS: dict[str, Callable[[random.Random], Any]] = {
    "lock-tokens": lambda chance: Array(
        [uuid.UUID(int=chance.randrange(4)) for _ in range(chance.randint(1, 3))]
    ),
    "sequence-numbers": lambda chance: Array(
        [Long(chance.randrange(-1, 100)) for _ in range(chance.randint(1, 3))]
    ),
    "messages": lambda chance: [
        {"message": make_message(chance), "message-id": make_value(chance)}
    ],
    "disposition-status": lambda chance: chance.choice(
        ("completed", "abandoned", "defered", "suspended", "other")
    ),
    "properties-to-modify": lambda chance: {chance.choice(_EXTREME_TEXTS): make_value(chance)},
    "receiver-settle-mode": lambda chance: UInt(chance.randrange(3)),
    "session-id": lambda chance: chance.choice(("session", *_EXTREME_TEXTS)),
    "session-state": lambda chance: chance.randbytes(chance.randrange(300)),
    "rule-description": lambda chance: {
        chance.choice(("sql-filter", "correlation-filter", "sql-rule-action")): {
            "expression": chance.choice(_SQL_TEXTS),
            "properties": {chance.choice(_EXTREME_TEXTS): make_value(chance)},
        }
    },
}


def make_message(chance: random.Random) -> bytes:
    """Return a message whose sections have random values.

    In some messages, random bytes are changed, too.
    """
    codes = chance.choices(range(0x70, 0x7A), k=chance.randint(1, 4))
    sections = [encode(Described(ULong(code), make_value(chance))) for code in sorted(codes)]
    message = b"".join(sections) + encode_section(DATA, b"body")
    return mutate(message, chance) if chance.random() < 0.3 else message


def make_frame(chance: random.Random) -> bytes:
    """Return a malformed AMQP frame.

    Most frames have a valid performative with changed fields, with changed bytes, or with a
    malformed message after it. The other frames consist of random bytes. Transfers use the handles
    of the links in `campaign.SETUP`.
    """
    channel = 0 if chance.random() < 0.95 else chance.randrange(65536)
    match chance.randrange(8):
        case 0 | 1:
            body = chance.choice(_RECORDED)
            return encode_frame(mutate(body, chance), channel)
        case 2 | 3:
            return encode_frame(_with_other_fields(chance), channel)
        case 4:
            node = UInt(chance.choice((2, 8, 11)))
            transfer = Transfer(node, UInt(chance.randrange(3)), b"tag", UInt(0))
            return encode_frame(transfer.encode() + make_request(chance), channel)
        case 5:
            format_ = chance.choice((0, 0, 0, 0x80013700, 7))
            link = UInt(chance.choice((0, 6, 9)))
            transfer = Transfer(link, UInt(chance.randrange(3)), b"tag", UInt(format_))
            return encode_frame(transfer.encode() + make_message(chance), channel)
        case 6:
            return mutate(encode_frame(chance.choice(_OWN).encode(), channel), chance)
        case _:
            size = chance.randrange(200)
            header = struct.pack(">IBBH", _HEADER_BYTES + size, 2, chance.choice((0, 0, 1)), 0)
            return chance.choice((header, b"")) + chance.randbytes(size)


def _with_other_fields(chance: random.Random) -> bytes:
    """Return an encoded performative in which one to three fields have random values.

    If the performative is from a recorded frame, the payload of the frame follows it.
    """
    performative, payload = chance.choice(_OWN), b""
    if chance.random() < 0.5:
        recorded = chance.choice(_RECORDED)
        try:
            performative, at = read_performative(recorded)
        except DecodeError:
            at = len(recorded)
        payload = recorded[at:]
    fields = [getattr(performative, name) for name in performative.names()]
    for _ in range(chance.randint(1, 3)):
        fields[chance.randrange(len(fields))] = make_value(chance)
    if chance.random() < 0.1:
        fields += [make_value(chance)]
    return encode_composite(performative.code, fields) + payload


# HTTP


@dataclass(frozen=True)
class HttpTemplate:
    """A valid HTTP request. `{id}` in the target is replaced with a short random number."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


_METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW", "get", "")
_TARGETS = (
    "/",
    "//",
    "/%",
    "/%00",
    "/%ff",
    "/..%2f..",
    "*",
    "http://localhost/",
    "/?",
    "/\x00",
    "",
)
_HEADERS = (
    ("content-length", "-1"),
    ("content-length", "99999999999999999999"),
    ("content-length", "5"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "gzip, chunked"),
    ("expect", "100-continue"),
    ("host", ""),
    ("host", "localhost:99999"),
    ("host", "[::1"),
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("range", "bytes=5-1,-,99999999999999999999-"),
    ("x-ms-range", "bytes=-1"),
    ("if-match", '"'),
    ("if-none-match", "\xff"),
    ("if-modified-since", "Fri, 99 Foo 0000 99:99:99 GMT"),
    ("date", "0"),
    ("x-ms-version", "9999-99-99"),
    ("x-ms-date", "Mon, 31 Feb 2026 00:00:00 GMT"),
    ("x-ms-lease-id", "x"),
    ("x-ms-lease-action", "break"),
    ("x-ms-lease-duration", "-2"),
    ("x-ms-lease-break-period", "99999999999999999999"),
    ("x-ms-proposed-lease-id", "{}"),
    ("x-ms-tags", "a=b&a=%ff&=&=="),
    ("x-ms-blob-condition-appendpos", "-1"),
    ("x-ms-copy-source", "http://localhost/%00?sig=%"),
    ("x-ms-delete-snapshots", "all"),
    ("x-ms-meta-", "1"),
    ("x-ms-meta-a b", "1"),
    ("x-ms-blob-content-md5", "=="),
    ("content-md5", "AAAA"),
    ("x-ms-client-request-id", "\t" * 2000),
    ("authorization", "SharedKey devstoreaccount1:="),
    ("authorization", "SharedAccessSignature sr=&sig=%&se=99999999999999&skn="),
    ("content-type", "application/json; charset=none"),
    ("content-encoding", "gzip"),
    ("x-forwarded-host", "\x7f"),
    ("traceparent", "00-zz"),
    ("a" * 5000, "b" * 5000),
)
_PARAMETERS = (
    "comp=list",
    "comp=block&blockid=%3D",
    "comp=blocklist&blocklisttype=none",
    "restype=container&comp=list&maxresults=-1",
    "restype=container&comp=list&marker=%ff&delimiter=%00",
    "maxresults=99999999999999999999",
    "snapshot=2026-13-01T00:00:00.0000000Z",
    "comp=lease",
    "comp=tags&snapshot=x",
    "comp=appendblock",
    "timeout=-1",
    "timeout=NaN",
    "se=9999-99-99&sp=x&sv=1",
    "$skip=-1&$top=99999999999999999999",
    "api-version=",
    "showHistory=maybe&showInput=2",
    "createdTimeFrom=0000-00-00&createdTimeTo=x",
    "runtimeStatus=Nothing,Running",
    "pollingInterval=nan&timeout=inf",
    "top=-5",
    "a" * 3000,
    "=&&=%zz",
)


def make_http_request(template: HttpTemplate, chance: random.Random) -> bytes:
    """Return the bytes of a malformed HTTP request.

    The request is `template` with a changed method, target or body, with additional headers, or
    with random changes in its bytes.
    """
    method, body = template.method, template.body
    target = template.target.replace("{id}", str(chance.randrange(10)))
    headers = [("host", "localhost"), *template.headers]
    if chance.random() < 0.15:
        method = chance.choice(_METHODS)
    if chance.random() < 0.3:
        path, mark, query = target.partition("?")
        match chance.randrange(3):
            case 0:
                target = chance.choice(_TARGETS) + mark + query
            case 1:
                target = mutate(path.encode(), chance).decode("latin-1") + mark + query
            case _:
                target = path.rpartition("/")[0] + chance.choice(_TARGETS) + mark + query
    if chance.random() < 0.3:
        target += ("&" if "?" in target else "?") + chance.choice(_PARAMETERS)
    if chance.random() < 0.5:
        body = mutate(body, chance)
    if chance.random() < 0.4:
        headers += chance.sample(_HEADERS, chance.randint(1, 3))
    if not any(name in {"content-length", "transfer-encoding"} for name, _ in headers):
        headers.append(("content-length", str(len(body))))
    version = "HTTP/1.1" if chance.random() < 0.97 else chance.choice(("HTTP/1.0", "HTTP/9.9", ""))
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers)]
    data = "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + body
    return mutate(data, chance) if chance.random() < 0.15 else data
