"""Read and write the descriptions of subscription rules in the management API."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement

from emulator.servicebus.atom import INSTANCE, SERVICE_BUS, add_element, start_entry
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.property_values import Value, value_from_text, value_text
from emulator.servicebus.broker.subscription_rules import (
    CORRELATION_PROPERTIES,
    BooleanFilter,
    CorrelationFilter,
    RuleFilter,
    SqlAction,
    SqlFilter,
    SubscriptionRule,
)

RULE_DESCRIPTION = "RuleDescription"

_EMPTY_ACTION = "EmptyRuleAction"
_SQL_ACTION = "SqlRuleAction"

_XML_SCHEMA = "http://www.w3.org/2001/XMLSchema"
_TYPE = f"{{{INSTANCE}}}type"


def read_rule(name: str, description: Element) -> SubscriptionRule:
    """Convert a RuleDescription element to a rule. Raises ArgumentError if it is invalid."""
    element = _child(description, "Filter")
    rule_filter = BooleanFilter() if element is None else _read_filter(element)
    return SubscriptionRule(name, rule_filter, _read_action(_child(description, "Action")))


def read_default_rule(description: Element) -> SubscriptionRule | None:
    """Return the rule in a SubscriptionDescription for a new subscription, or None."""
    rule = _child(description, "DefaultRuleDescription")
    if rule is None:
        return None
    return read_rule(_text(rule, "Name"), rule)


def _read_filter(element: Element) -> RuleFilter:
    kind = element.get(_TYPE, "")
    match kind:
        case "TrueFilter":
            return BooleanFilter(selects_all=True)
        case "FalseFilter":
            return BooleanFilter(selects_all=False)
        case "SqlFilter":
            return SqlFilter(_text(element, "SqlExpression"), _read_values(element, "Parameters"))
        case "CorrelationFilter":
            texts = {name: _text(element, name) for name in CORRELATION_PROPERTIES}
            system = {name: text for name, text in texts.items() if text}
            return CorrelationFilter(system, _read_values(element, "Properties"))
    raise ArgumentError(
        "Filter: expected a TrueFilter, FalseFilter, SqlFilter or CorrelationFilter, found "
        f"{kind[:100]!r}"
    )


def _read_action(element: Element | None) -> SqlAction | None:
    kind = _EMPTY_ACTION if element is None else element.get(_TYPE, _EMPTY_ACTION)
    if element is None or kind == _EMPTY_ACTION:
        return None
    if kind != _SQL_ACTION:
        raise ArgumentError(
            f"Action: expected {_EMPTY_ACTION} or {_SQL_ACTION}, found {kind[:100]!r}"
        )
    return SqlAction(_text(element, "SqlExpression"), _read_values(element, "Parameters"))


def _read_values(parent: Element, name: str) -> dict[str, Value]:
    listed = _child(parent, name)
    values: dict[str, Value] = {}
    for each in () if listed is None else listed:
        value = _child(each, "Value")
        if value is None:
            raise ArgumentError(f"{name}: expected an element Value for each element Key")
        # The type has the prefix of an XML namespace, which differs between clients.
        kind = value.get(_TYPE, "string").rpartition(":")[2]
        values[_text(each, "Key")] = value_from_text(kind, value.text or "")
    return values


def _child(parent: Element, name: str) -> Element | None:
    return parent.find(f"{{{SERVICE_BUS}}}{name}")


def _text(parent: Element, name: str) -> str:
    return parent.findtext(f"{{{SERVICE_BUS}}}{name}") or ""


def rule_entry(url: str, rule: SubscriptionRule) -> Element:
    """Return the Atom entry that describes a rule. `url` is the URL of the rule."""
    entry, description = start_entry(url, rule.name, RULE_DESCRIPTION)
    _add_filter(description, rule.filter)
    action = _add(description, "Action")
    action.set(_TYPE, _EMPTY_ACTION if rule.action is None else _SQL_ACTION)
    if rule.action is not None:
        _add_sql(action, rule.action.expression, rule.action.parameters)
    add_element(description, SERVICE_BUS, "Name", rule.name)
    return entry


def _add_filter(description: Element, rule_filter: RuleFilter) -> None:
    element = _add(description, "Filter")
    match rule_filter:
        case BooleanFilter(selects_all=selects_all):
            element.set(_TYPE, "TrueFilter" if selects_all else "FalseFilter")
            _add_sql(element, "1=1" if selects_all else "1=0", {})
        case SqlFilter(expression=expression, parameters=parameters):
            element.set(_TYPE, "SqlFilter")
            _add_sql(element, expression, parameters)
        case CorrelationFilter(system=system, application=application):
            element.set(_TYPE, "CorrelationFilter")
            for name in CORRELATION_PROPERTIES:
                if name in system:
                    add_element(element, SERVICE_BUS, name, system[name])
            if application:
                _add_values(_add(element, "Properties"), application)


def _add_sql(element: Element, expression: str, parameters: Mapping[str, Value]) -> None:
    add_element(element, SERVICE_BUS, "SqlExpression", expression)
    add_element(element, SERVICE_BUS, "CompatibilityLevel", "20")
    if parameters:
        _add_values(_add(element, "Parameters"), parameters)


def _add_values(parent: Element, values: Mapping[str, Value]) -> None:
    for name, value in values.items():
        kind, text = value_text(value)
        pair = _add(parent, "KeyValueOfstringanyType")
        add_element(pair, SERVICE_BUS, "Key", name)
        element = add_element(pair, SERVICE_BUS, "Value", text)
        element.set(_TYPE, f"x:{kind}")
        element.set("xmlns:x", _XML_SCHEMA)


def _add(parent: Element, name: str) -> Element:
    return SubElement(parent, f"{{{SERVICE_BUS}}}{name}")
