"""Perform the operations on rules that peers request from a subscription's `$management` node.

"AMQP request/response operations in Service Bus" (learn.microsoft.com) describes the operations and
their fields. As in Azure, the operations require only the right Listen.
"""

from typing import Any

from emulator.servicebus.amqp.errors import MessageFault
from emulator.servicebus.amqp.types import Described, ULong
from emulator.servicebus.broker.errors import ArgumentError, NotAllowed
from emulator.servicebus.broker.property_values import Value
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.subscription_rules import (
    BooleanFilter,
    CorrelationFilter,
    RuleFilter,
    SqlAction,
    SqlFilter,
    SubscriptionRule,
)
from emulator.servicebus.broker.topic import TopicSubscription
from emulator.servicebus.messages import amqp_value_of, convert_value

_Body = dict[Any, Any]

_RULE = ULong(0x0000013700000004)
_EMPTY_ACTION = ULong(0x0000013700000005)
_SQL_ACTION = ULong(0x0000013700000006)
# As in Azure, these codes have one digit less.
_SQL_FILTER = ULong(0x1370000006)
_TRUE_FILTER = ULong(0x1370000007)
_FALSE_FILTER = ULong(0x1370000008)
_CORRELATION_FILTER = ULong(0x1370000009)

_CORRELATION_FIELDS = {
    "correlation-id": "CorrelationId",
    "message-id": "MessageId",
    "to": "To",
    "reply-to": "ReplyTo",
    "label": "Label",
    "session-id": "SessionId",
    "reply-to-session-id": "ReplyToSessionId",
    "content-type": "ContentType",
}
"""The names of system properties in a request, in the order of the fields in a reply."""


async def add_rule(queue: Queue, body: _Body) -> _Body:
    """Add a request's rule to a subscription. Raises NotAllowed or MessageFault."""
    subscription = _subscription(queue)
    name, description = body.get("rule-name"), body.get("rule-description")
    if not isinstance(name, str) or not isinstance(description, dict):
        raise _bad("rule-name must be a string, and rule-description must be a map")
    rule = SubscriptionRule(str(name), _read_filter(description), _read_action(description))
    await subscription.add_rule(rule)
    return {}


async def remove_rule(queue: Queue, body: _Body) -> _Body:
    """Remove a rule from a subscription. Raises NotAllowed or MessageFault."""
    name = body.get("rule-name")
    if not isinstance(name, str):
        raise _bad("rule-name must be a string")
    await _subscription(queue).remove_rule(name)
    return {}


async def enumerate_rules(queue: Queue, body: _Body) -> _Body | None:
    """Return a reply body with a page (`skip`, `top`) of a subscription's rules, or None if empty.

    Raises NotAllowed if `queue` is not a subscription, and MessageFault if `body` is not valid.
    """
    skip, top = body.get("skip"), body.get("top")
    if isinstance(skip, bool) or isinstance(top, bool):
        skip = top = None
    if not (isinstance(skip, int) and isinstance(top, int) and skip >= 0 and top >= 1):
        raise _bad("skip and top must be whole numbers: skip at least 0, and top at least 1")
    page = _subscription(queue).rules[skip : skip + top]
    rules = [{"rule-description": _rule_description(rule)} for rule in page]
    return {"rules": rules} if rules else None


def _subscription(queue: Queue) -> TopicSubscription:
    if not isinstance(queue, TopicSubscription):
        raise NotAllowed(f"{queue.address!r} is not a subscription: only subscriptions have rules")
    return queue


def _read_filter(description: _Body) -> RuleFilter:
    sql, correlation = description.get("sql-filter"), description.get("correlation-filter")
    if isinstance(sql, dict):
        return SqlFilter(_read_expression(sql))
    if not isinstance(correlation, dict):
        raise _bad("rule-description must contain sql-filter or correlation-filter, as a map")
    system = {
        name: str(correlation[key])
        for key, name in _CORRELATION_FIELDS.items()
        if correlation.get(key) is not None
    }
    return CorrelationFilter(system, _read_properties(correlation.get("properties")))


def _read_action(description: _Body) -> SqlAction | None:
    action = description.get("sql-rule-action")
    if not isinstance(action, dict):
        return None
    return SqlAction(_read_expression(action)) if action.get("expression") else None


def _read_expression(body: _Body) -> str:
    expression = body.get("expression")
    if not isinstance(expression, str):
        raise _bad("expression must be a string")
    return str(expression)


def _read_properties(properties: object) -> dict[str, Value]:
    if not isinstance(properties, dict | None):
        raise _bad("properties must be a map")
    values: dict[str, Value] = {}
    for name, item in (properties or {}).items():
        value = convert_value(item)
        if not isinstance(name, str) or value is None:
            raise ArgumentError(
                f"properties: {str(name)[:100]!r} has a value that filters cannot compare"
            )
        values[str(name)] = value
    return values


def _rule_description(rule: SubscriptionRule) -> Described:
    action = Described(_EMPTY_ACTION, [])
    if rule.action is not None:
        action = Described(_SQL_ACTION, [rule.action.expression])
    return Described(_RULE, [_write_filter(rule.filter), action, rule.name])


def _write_filter(rule_filter: RuleFilter) -> Described:
    match rule_filter:
        case BooleanFilter(selects_all=True):
            return Described(_TRUE_FILTER, ["1=1"])
        case BooleanFilter():
            return Described(_FALSE_FILTER, ["1=0"])
        case SqlFilter(expression=expression):
            return Described(_SQL_FILTER, [expression])
        case CorrelationFilter(system=system, application=application):
            fields: list[Any] = [system.get(name) for name in _CORRELATION_FIELDS.values()]
            properties = {name: amqp_value_of(value) for name, value in application.items()}
            return Described(_CORRELATION_FILTER, [*fields, properties])


def _bad(description: str) -> MessageFault:
    return MessageFault("com.microsoft:argument-error", description)
