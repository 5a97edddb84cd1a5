"""The rules of a topic's subscription.

The filter of a rule selects messages that the subscription gets. The action of a rule changes the
properties of these messages.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.property_values import (
    MessageProperties,
    PropertyUpdate,
    Value,
    check_system_property,
    check_value,
    compare_values,
    value_from_text,
    value_text,
)
from emulator.servicebus.broker.sql_filter import Predicate, SqlStatement, parse_action, parse_sql

DEFAULT_RULE_NAME = "$Default"
"""The name of the rule that a new subscription has. It selects all messages."""

_MAX_RULES = 2000
_MAX_NAME_LENGTH = 50
_NAME = re.compile(r"\$Default|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BooleanFilter:
    """A filter that selects all messages (TrueFilter) or none (FalseFilter)."""

    selects_all: bool = True

    def matches(self, _: MessageProperties) -> bool:
        """Return whether the filter selects a message."""
        return self.selects_all


@dataclass(frozen=True, slots=True)
class SqlFilter:
    """A filter that selects the messages for which a SQL expression is true.

    The constructor raises ArgumentError if the expression is invalid.
    """

    expression: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """The values of the parameters in the expression, by their names."""
    _predicate: Predicate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_predicate", parse_sql(self.expression, self.parameters))

    def matches(self, properties: MessageProperties) -> bool:
        """Return whether the filter selects a message."""
        return self._predicate(properties) is True


CORRELATION_PROPERTIES = (
    "CorrelationId",
    "MessageId",
    "To",
    "ReplyTo",
    "Label",
    "SessionId",
    "ReplyToSessionId",
    "ContentType",
)
"""The system properties that clients can put into a correlation filter, in Azure's order."""


@dataclass(frozen=True, slots=True)
class CorrelationFilter:
    """A filter that selects the messages whose properties have all the given values.

    The constructor raises ArgumentError if there is no value or a system property is unknown.
    """

    system: Mapping[str, str] = field(default_factory=dict)
    """The expected values of system properties, by names such as `CorrelationId`."""
    application: Mapping[str, Value] = field(default_factory=dict)
    """The expected values of application properties, by name."""

    def __post_init__(self) -> None:
        if not self.system and not self.application:
            raise ArgumentError("CorrelationFilter: expected a value for at least one property")
        for name, value in self.system.items():
            check_system_property(name)
            check_value(value)
        for name, item in self.application.items():
            check_value(name)
            check_value(item)

    def matches(self, properties: MessageProperties) -> bool:
        """Return whether the filter selects a message."""
        return all(
            compare_values(properties.system_value(name), value) is True
            for name, value in self.system.items()
        ) and all(
            compare_values(properties.application_value(name), value) is True
            for name, value in self.application.items()
        )


RuleFilter = BooleanFilter | SqlFilter | CorrelationFilter
_RULE_NAME_PROPERTY = "RuleName"


@dataclass(frozen=True, slots=True)
class SqlAction:
    """An action that sets and removes properties of the messages that a filter selects.

    The constructor raises ArgumentError if the expression is invalid.
    """

    expression: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """The values of the parameters in the expression, by their names."""
    _statements: Sequence[SqlStatement] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_statements", parse_action(self.expression, self.parameters))

    def run(self, properties: MessageProperties) -> list[PropertyUpdate]:
        """Return the changes of a message by statements that see those before them."""
        updates = []
        for statement in self._statements:
            update = statement.run(properties)
            properties = properties.with_update(update)
            updates.append(update)
        return updates


@dataclass(frozen=True, slots=True)
class SubscriptionRule:
    """A rule of a subscription. The constructor raises ArgumentError if the name is invalid."""

    name: str
    filter: RuleFilter = BooleanFilter()
    action: SqlAction | None = None
    """If a rule has an action, the subscription gets a copy of its own for this rule."""

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(self.name):
            raise ArgumentError(
                f"Name: {self.name[:100]!r} is not a valid rule name: use at most "
                f"{_MAX_NAME_LENGTH} letters, digits and . _ -, and begin with a letter or digit"
            )

    def find_updates(self, properties: MessageProperties) -> list[PropertyUpdate]:
        """Return the action's changes of a message; as in Azure, the last sets `RuleName`."""
        if self.action is None:
            return []
        return [*self.action.run(properties), PropertyUpdate(_RULE_NAME_PROPERTY, self.name)]


DEFAULT_RULES = (SubscriptionRule(DEFAULT_RULE_NAME),)


def check_subscription_rules(rules: Iterable[SubscriptionRule]) -> None:
    """Raise ArgumentError if two rules have the same name, or if there are more than 2000 rules."""
    names: set[str] = set()
    for rule in rules:
        if rule.name.casefold() in names:
            raise ArgumentError(f"Rules: two rules have the name {rule.name!r}")
        names.add(rule.name.casefold())
    if len(names) > _MAX_RULES:
        raise ArgumentError(f"Rules: expected at most {_MAX_RULES}, found {len(names)}")


def rule_to_values(rule: SubscriptionRule) -> dict[str, Any]:
    """Return a rule as a dict that JSON can represent."""
    match rule.filter:
        case BooleanFilter(selects_all=selects_all):
            values: dict[str, Any] = {"boolean": selects_all}
        case SqlFilter(expression=expression, parameters=parameters):
            values = {"sql": expression, "parameters": _to_texts(parameters)}
        case CorrelationFilter(system=system, application=application):
            values = {"system": dict(system), "application": _to_texts(application)}
    if rule.action is not None:
        texts = _to_texts(rule.action.parameters)
        values["action"] = {"sql": rule.action.expression, "parameters": texts}
    return {"name": rule.name, **values}


def rule_from_values(values: Mapping[str, Any]) -> SubscriptionRule:
    """Convert the result of `rule_to_values` back to the rule."""
    chosen: RuleFilter
    if "boolean" in values:
        chosen = BooleanFilter(values["boolean"])
    elif "sql" in values:
        chosen = SqlFilter(values["sql"], _from_texts(values["parameters"]))
    else:
        chosen = CorrelationFilter(values["system"], _from_texts(values["application"]))
    action = None
    if "action" in values:
        texts = values["action"]
        action = SqlAction(texts["sql"], _from_texts(texts["parameters"]))
    return SubscriptionRule(values["name"], chosen, action)


def _to_texts(values: Mapping[str, Value]) -> dict[str, tuple[str, str]]:
    return {name: value_text(value) for name, value in values.items()}


def _from_texts(texts: Mapping[str, tuple[str, str]]) -> dict[str, Value]:
    return {name: value_from_text(*text) for name, text in texts.items()}
