"""Perform the operations that peers request from a queue's `$management` node, such as peek.

"AMQP request/response operations in Service Bus" (learn.microsoft.com) describes the operations and
their fields.
"""

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from emulator.servicebus.accepted_sessions import AcceptedSessions
from emulator.servicebus.amqp.errors import AmqpError, MessageFault
from emulator.servicebus.amqp.types import Array, Int, Long, Symbol, Timestamp
from emulator.servicebus.broker.authorization import AccessRight
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.message import ReceiveMode
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.cbs import UNAUTHORIZED, unauthorized_text
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management_rules import add_rule, enumerate_rules, remove_rule
from emulator.servicebus.messages import encode_changes, read_message, write_message
from emulator.servicebus.request_response import AmqpReply, AmqpRequest
from emulator.servicebus.tracking import add_tracking

_MAX_ITEMS = 4500
_END_OF_TIME_MS = 253402300800000
"""The `last-updated-time` for which all sessions are listed: the start of the year 10000."""
_PREFIX = "com.microsoft:"
_Body = dict[Any, Any]
_Operation = Callable[[Queue, _Body], Awaitable[_Body | None]]
_SessionOperation = Callable[[Queue, _Body, MessageSessionLock | None], Awaitable[_Body | None]]


async def manage(
    queue: Queue,
    faults: NamespaceFaults,
    rights: Collection[AccessRight],
    sessions: AcceptedSessions,
    request: AmqpRequest,
) -> AmqpReply:
    """Perform a management operation on a queue and return the reply, or its error."""
    try:
        faults.check_message(queue.address)
        value = await _perform(queue, rights, sessions, request)
    except BrokerError as error:
        text = add_tracking(str(error), queue.address)
        return _refusal(error.status_code, error.condition, text)
    except MessageFault as fault:
        return _refusal(fault.status_code, fault.condition, fault.description)
    except AmqpError as error:  # a message in the request's body cannot be decoded
        return _refusal(400, error.condition, error.description)
    if value is None:
        return AmqpReply({"statusCode": Int(204), "statusDescription": "No Content"})
    return AmqpReply({"statusCode": Int(200), "statusDescription": "OK"}, value)


async def _perform(
    queue: Queue,
    rights: Collection[AccessRight],
    sessions: AcceptedSessions,
    request: AmqpRequest,
) -> _Body | None:
    short_name = request.operation.removeprefix(_PREFIX)
    operation = _OPERATIONS.get(short_name)
    session_operation = _SESSION_OPERATIONS.get(short_name)
    if operation is None and session_operation is None:
        name = request.operation[:100]
        raise MessageFault("amqp:not-implemented", f"the operation {name!r} is not supported", 501)
    required = AccessRight.SEND if short_name in _SENDING else AccessRight.LISTEN
    if required not in rights:
        raise MessageFault(UNAUTHORIZED, unauthorized_text(queue.address, required), 401)
    if not isinstance(request.value, dict):
        raise _bad("the body of the request must be a map")
    if operation is not None:
        return await operation(queue, request.value)
    assert session_operation is not None
    session_id = _session_id(request.value)
    lock = None if session_id is None else sessions.find(queue, session_id)
    return await session_operation(queue, request.value, lock)


async def _renew(queue: Queue, body: _Body) -> _Body:
    tokens = _items(body, "lock-tokens", UUID)
    ends = await queue.renew(tokens)
    return {"expirations": Array(Timestamp.of(each) for each in ends)}


async def _peek(queue: Queue, body: _Body) -> _Body | None:
    # Some programs peek to check whether the namespace works. The peek must fail while no message
    # can be sent, received or settled.
    queue.check_writable()
    queue.check_receiving()
    start = _number(body, "from-sequence-number")
    count = _number(body, "message-count")
    if count < 1:
        raise _bad("message-count must be at least 1")
    found = queue.peek(start, min(count, _MAX_ITEMS), _session_id(body))
    messages = [{"message": write_message(each, None, None)} for each in found]
    return {"messages": messages} if messages else None


async def _schedule(queue: Queue, body: _Body) -> _Body:
    messages = []
    for item in _items(body, "messages", dict):
        encoded = item.get("message")
        if not isinstance(encoded, bytes):
            raise _bad("each message in a schedule request must be an AMQP binary value")
        message = read_message(encoded)
        if message.scheduled_at is None:
            raise _bad("a message to schedule has no x-opt-scheduled-enqueue-time")
        messages.append(message)
    numbers = await queue.schedule(messages)
    return {"sequence-numbers": Array(map(Long, numbers))}


async def _cancel(queue: Queue, body: _Body) -> _Body:
    await queue.cancel_scheduled(_items(body, "sequence-numbers", int))
    return {}


async def _receive(queue: Queue, body: _Body, lock: MessageSessionLock | None) -> _Body:
    settle_mode = _number(body, "receiver-settle-mode")
    mode = ReceiveMode.PEEK_LOCK if settle_mode == 1 else ReceiveMode.RECEIVE_AND_DELETE
    numbers = _items(body, "sequence-numbers", int)
    messages = []
    for delivery in await queue.receive_deferred(numbers, mode, lock):
        token, until = delivery.lock_token, delivery.locked_until
        item: _Body = {"message": write_message(delivery.message, token, until)}
        if token is not None:
            item["lock-token"] = token
        messages.append(item)
    return {"messages": messages}


async def _dispose(queue: Queue, body: _Body, lock: MessageSessionLock | None) -> _Body:
    if lock is not None:
        queue.check_session_lock(lock)
    tokens = _items(body, "lock-tokens", UUID)
    status = body.get("disposition-status")
    properties = body.get("properties-to-modify")
    if not isinstance(properties, dict | None):
        raise _bad("properties-to-modify must be a map")
    changes = encode_changes(properties or {})
    for token in tokens:
        match status:
            case "completed":
                await queue.complete(token)
            case "abandoned":
                await queue.abandon(token, changes)
            case (
                "defered" | "deferred"
            ):  # the protocol spells it "defered"; accept the correct spelling too
                await queue.defer(token, changes)
            case "suspended":
                reason, description = (
                    body.get("deadletter-reason"),
                    body.get("deadletter-description"),
                )
                await queue.dead_letter(token, _text(reason), _text(description), changes)
            case _:
                raise _bad(
                    "disposition-status must be 'completed', 'abandoned', 'defered' or 'suspended'"
                )
    return {}


async def _renew_session_lock(queue: Queue, _: _Body, lock: MessageSessionLock | None) -> _Body:
    return {"expiration": Timestamp.of(queue.renew_session_lock(_required(lock)))}


async def _get_session_state(queue: Queue, _: _Body, lock: MessageSessionLock | None) -> _Body:
    return {"session-state": queue.session_state(_required(lock))}


async def _set_session_state(queue: Queue, body: _Body, lock: MessageSessionLock | None) -> _Body:
    state = body.get("session-state")
    if not isinstance(state, bytes | None):
        raise _bad("session-state must be a binary value or null")
    await queue.set_session_state(_required(lock), state)
    return {}


async def _list_sessions(queue: Queue, body: _Body) -> _Body | None:
    updated_after = body.get("last-updated-time")
    if not isinstance(updated_after, Timestamp):
        raise _bad("last-updated-time must be a timestamp")
    skip, top = _number(body, "skip"), _number(body, "top")
    if skip < 0 or top < 1:
        raise _bad("skip must be at least 0, and top must be at least 1")
    if updated_after >= _END_OF_TIME_MS:
        ids = queue.session_ids()
    else:
        ids = queue.session_ids(_instant(updated_after))
    page = ids[skip : skip + min(top, _MAX_ITEMS)]
    return {"skip": Int(skip), "sessions-ids": Array(page)} if page else None


def _instant(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.instant()
    except OverflowError:
        raise _bad("last-updated-time must be in the years 1 to 9999") from None


_OPERATIONS: dict[str, _Operation] = {
    "renew-lock": _renew,
    "peek-message": _peek,
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel,
    "get-message-sessions": _list_sessions,
    "add-rule": add_rule,
    "remove-rule": remove_rule,
    "enumerate-rules": enumerate_rules,
}
# The operations that use the peer's lock on a message session, if the request names a session.
_SESSION_OPERATIONS: dict[str, _SessionOperation] = {
    "receive-by-sequence-number": _receive,
    "update-disposition": _dispose,
    "renew-session-lock": _renew_session_lock,
    "get-session-state": _get_session_state,
    "set-session-state": _set_session_state,
}
# The operations that require the right Send. All other operations require Listen.
_SENDING = {"schedule-message", "cancel-scheduled-message"}


_ITEM_KINDS: dict[type[Any], str] = {UUID: "a UUID", dict: "a map", int: "a whole number"}


def _items(body: _Body, name: str, kind: type[Any]) -> list[Any]:
    items = body.get(name)
    if not isinstance(items, list) or not items:
        raise _bad(f"{name} must be a list with at least one item")
    if len(items) > _MAX_ITEMS:
        raise _bad(f"{name} must have at most {_MAX_ITEMS} items")
    if any(not isinstance(item, kind) or isinstance(item, bool) for item in items):
        raise _bad(f"each item of {name} must be {_ITEM_KINDS[kind]}")
    return items


def _number(body: _Body, name: str) -> int:
    number = body.get(name)
    if not isinstance(number, int) or isinstance(number, bool):
        raise _bad(f"{name} must be a whole number")
    return int(number)


def _session_id(body: _Body) -> str | None:
    session_id = body.get("session-id")
    if not isinstance(session_id, str | None):
        raise _bad("session-id must be a string")
    return session_id


def _required(lock: MessageSessionLock | None) -> MessageSessionLock:
    if lock is None:
        raise _bad("session-id must be a string")
    return lock


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _bad(description: str) -> MessageFault:
    return MessageFault("com.microsoft:argument-error", description)


def _refusal(status_code: int, condition: str, description: str) -> AmqpReply:
    return AmqpReply(
        {
            "statusCode": Int(status_code),
            "statusDescription": description,
            "errorCondition": Symbol(condition),
        }
    )
