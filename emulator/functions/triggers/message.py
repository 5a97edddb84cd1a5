"""A Service Bus message as the Functions host hands it to a function: body and trigger metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

_TRACE_PROPERTIES = ("traceparent", "Diagnostic-Id")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a function is fired with."""

    body: bytes
    metadata: dict[str, Any]
    trace: list[str] | None


def read_delivery(message: ServiceBusReceivedMessage) -> Delivery:
    """Return a received message's body and its metadata: those that the .NET extension gives.

    azure.functions' converter would read more, such as `DeadLetterReason`, but never gets it.
    """
    properties = _plain(message.application_properties or {})
    metadata: dict[str, Any] = {
        "MessageId": message.message_id,
        "CorrelationId": message.correlation_id,
        "ContentType": message.content_type,
        # The .NET client, which the real host uses, counts the delivery that is under way.
        "DeliveryCount": (message.delivery_count or 0) + 1,
        "DeadLetterSource": message.dead_letter_source,
        "EnqueuedTimeUtc": _instant(message.enqueued_time_utc),
        "ExpiresAtUtc": _instant(message.expires_at_utc),
        "Label": message.subject,
        "LockToken": str(message.lock_token),
        "PartitionKey": message.partition_key,
        "ReplyTo": message.reply_to,
        "ReplyToSessionId": message.reply_to_session_id,
        "SequenceNumber": message.sequence_number,
        "SessionId": message.session_id,
        "Subject": message.subject,
        "To": message.to,
        "ApplicationProperties": properties,
        "UserProperties": properties,
    }
    parent = next((properties[name] for name in _TRACE_PROPERTIES if name in properties), None)
    trace = [str(parent), str(properties.get("tracestate", ""))] if parent else None
    return Delivery(_body(message), metadata, trace)


def _body(message: ServiceBusReceivedMessage) -> bytes:
    body: Any = message.body
    if message.body_type is AmqpMessageBodyType.DATA:
        return b"".join(body)
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    if isinstance(body, str):
        return body.encode()
    value = body if message.body_type is AmqpMessageBodyType.VALUE else list(body)
    return json.dumps(_plain(value)).encode()


def _instant(value: datetime | None) -> str | None:
    """Return a time in the form that the converter parses."""
    return None if value is None else value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(value: Any) -> Any:
    """Return an AMQP value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
