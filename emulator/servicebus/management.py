"""Perform the operations that peers request from a queue's `$management` node, such as peek.

"AMQP request/response operations in Service Bus" (learn.microsoft.com) describes the operations and
their fields.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any
from uuid import UUID

from emulator.servicebus.amqp.errors import AmqpError, MessageFault
from emulator.servicebus.amqp.types import Array, Int, Long, Symbol, Timestamp
from emulator.servicebus.broker.authorization import AccessRight
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.message import ReceiveMode
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.cbs import UNAUTHORIZED, unauthorized_text
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management_rules import add_rule, enumerate_rules, remove_rule
from emulator.servicebus.messages import encode_changes, read_message, write_message
from emulator.servicebus.request_response import AmqpReply, AmqpRequest
from emulator.servicebus.tracking import add_tracking

_MAX_ITEMS = 4500
_PREFIX = "com.microsoft:"
_Body = dict[Any, Any]
_Operation = Callable[[Queue, _Body], Awaitable[_Body | None]]


async def manage(
    queue: Queue,
    faults: NamespaceFaults,
    rights: Collection[AccessRight],
    request: AmqpRequest,
) -> AmqpReply:
    """Perform a management operation on a queue and return the reply.

    `rights` are the rights of the peer for the queue. If the operation fails, the reply contains
    the error.
    """
    try:
        faults.check_message(queue.address)
        value = await _perform(queue, rights, request)
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
    queue: Queue, rights: Collection[AccessRight], request: AmqpRequest
) -> _Body | None:
    short_name = request.operation.removeprefix(_PREFIX)
    operation = _OPERATIONS.get(short_name)
    if operation is None:
        name = request.operation[:100]
        raise MessageFault("amqp:not-implemented", f"the operation {name!r} is not supported", 501)
    required = AccessRight.SEND if short_name in _SENDING else AccessRight.LISTEN
    if required not in rights:
        raise MessageFault(UNAUTHORIZED, unauthorized_text(queue.address, required), 401)
    if not isinstance(request.value, dict):
        raise _bad("the body of the request must be a map")
    return await operation(queue, request.value)


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
    found = queue.peek(start, min(count, _MAX_ITEMS))
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


async def _receive(queue: Queue, body: _Body) -> _Body:
    settle_mode = _number(body, "receiver-settle-mode")
    mode = ReceiveMode.PEEK_LOCK if settle_mode == 1 else ReceiveMode.RECEIVE_AND_DELETE
    messages = []
    for delivery in await queue.receive_deferred(_items(body, "sequence-numbers", int), mode):
        token, until = delivery.lock_token, delivery.locked_until
        item: _Body = {"message": write_message(delivery.message, token, until)}
        if token is not None:
            item["lock-token"] = token
        messages.append(item)
    return {"messages": messages}


async def _dispose(queue: Queue, body: _Body) -> _Body:
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
                raise _bad("disposition-status must be completed, abandoned, defered or suspended")
    return {}


_OPERATIONS: dict[str, _Operation] = {
    "renew-lock": _renew,
    "peek-message": _peek,
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel,
    "receive-by-sequence-number": _receive,
    "update-disposition": _dispose,
    "add-rule": add_rule,
    "remove-rule": remove_rule,
    "enumerate-rules": enumerate_rules,
}
# The operations that require the right Send. All other operations require Listen.
_SENDING = {"schedule-message", "cancel-scheduled-message"}


def _items(body: _Body, name: str, kind: type[Any]) -> list[Any]:
    items = body.get(name)
    if not isinstance(items, list) or not items:
        raise _bad(f"{name} must be a list with at least one item")
    if len(items) > _MAX_ITEMS:
        raise _bad(f"{name} must have at most {_MAX_ITEMS} items")
    if any(not isinstance(item, kind) or isinstance(item, bool) for item in items):
        raise _bad(f"{name} must contain only items of the AMQP type that the operation requires")
    return items


def _number(body: _Body, name: str) -> int:
    number = body.get(name)
    if not isinstance(number, int) or isinstance(number, bool):
        raise _bad(f"{name} must be a whole number")
    return int(number)


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
