"""Test the SQL filters, the correlation filters and the actions of subscription rules."""

import operator
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.property_values import (
    MessageProperties,
    PropertyUpdate,
    Value,
    check_value,
    value_from_text,
    value_text,
)
from emulator.servicebus.broker.sql_filter import (
    MAX_DEPTH,
    MAX_LENGTH,
    parse_action,
    parse_sql,
)
from emulator.servicebus.broker.subscription_rules import (
    BooleanFilter,
    CorrelationFilter,
    SqlAction,
    SqlFilter,
    SubscriptionRule,
    rule_from_values,
    rule_to_values,
)

PROPERTIES = MessageProperties(
    {"label": "bus", "to": "Store5", "messageid": "1"},
    {"quantity": 5, "price": 2.5, "name": "ABC%x", "isold": True, "with space": "y", "a]b": 1},
)


def evaluate(expression: str, properties: MessageProperties = PROPERTIES) -> bool | None:
    return parse_sql(expression)(properties)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1=1", True),
        ("1=0", False),
        ("quantity = 5", True),
        ("QUANTITY = 5", True),
        ("user.quantity <> 5", False),
        ("quantity != 4", True),
        ("quantity > 4 AND price < 3", True),
        ("quantity >= 6 or price <= 2.5", True),
        ("NOT quantity > 4", False),
        ("not (quantity = 1 OR quantity = 2)", True),
        ("sys.Label LIKE '%us%' OR user.tag IN ('queue', 'topic')", True),
        ("sys.Subject = 'bus'", True),
        ("sys.To IN ('Store5','Store6')", True),
        ("sys.To NOT IN ('Store1','Store2')", True),
        ("sys.ReplyTo IS NULL", True),
        ("name IS NOT NULL", True),
        ("missing IS NULL", True),
        ("EXISTS(name)", True),
        ("EXISTS ( missing )", False),
        ("NOT EXISTS(missing)", True),
        ("isOld = TRUE", True),
        ("isOld <> false", True),
        ("[with space] = 'y'", True),
        ("[a]]b] = 1", True),
        ("\"with space\" = 'y'", True),
        ("name = 'it''s'", False),
        ("quantity + 1 = 6", True),
        ("quantity * 2 - 1 = 9", True),
        ("1 + 2 * 3 = 7", True),
        ("(1 + 2) * 3 = 9", True),
        ("7 / 2 = 3", True),
        ("-7 / 2 = -3", True),
        ("-7 % 3 = -1", True),
        ("7.0 / 2 = 3.5", True),
        ("5E1 = 50", True),
        ("- - 5 = +5", True),
        ("10 - 2 - 3 = 5", True),
        ("'a' + 'b' = 'ab'", True),
        ("property('quantity') = 5", True),
        ("p('quan' + 'tity') = 5", True),
        ("newid() = newid()", False),
        ("p('missing') IS NULL", True),
        # The word NOT binds more strongly than AND, and AND more strongly than OR.
        ("1=1 OR 1=1 AND 1=0", True),
        ("NOT 1=0 AND 1=0", False),
        # An operation is unknown if an operand is unknown, or if the types do not fit.
        ("missing = 1", None),
        ("missing <> 1", None),
        ("NOT missing = 1", None),
        ("missing + 1 = 1", None),
        ("-missing = 1", None),
        ("missing LIKE 'a'", None),
        ("missing NOT IN (1, 2)", None),
        ("quantity IN (1, missing)", None),
        ("quantity IN (5, missing)", True),
        ("quantity = NULL", None),
        ("name > 5", None),
        ("quantity = '5'", None),
        ("isOld = 1", None),
        ("isOld > FALSE", None),
        ("name - name = 0", None),
        ("quantity / 0 = 1", None),
        ("quantity % 0 = 1", None),
        ("9223372036854775807 + 1 > 0", None),
        ("quantity LIKE '5'", None),
        ("missing = 1 AND 1=0", False),
        ("missing = 1 OR 1=1", True),
        ("missing = 1 AND 1=1", None),
    ],
)
def test_expression_is_true_false_or_unknown(expression: str, expected: bool | None) -> None:
    assert evaluate(expression) is expected
    assert SqlFilter(expression).matches(PROPERTIES) is (expected is True)


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("ABC%x", r"'ABC\%_' ESCAPE '\'", True),
        ("ABCDx", r"'ABC\%_' ESCAPE '\'", False),
        ("ABC", "'ABC'", True),
        ("ABCD", "'ABC'", False),
        ("ABCD", "'ABC%'", True),
        ("ABC", "'abc'", False),
        ("a\nb", "'a_b'", True),
        ("a\nb", "'%b'", True),
        ("a.b", "'a_b'", True),
        ("axb", "'a.b'", False),
        ("", "'%'", True),
        ("", "''", True),
        ("abab", "'%ab'", True),
        ("ab", "'ab%ab'", False),
        ("a", "'a!' ESCAPE '!'", None),
        ("a", "'a' ESCAPE '!!'", None),
    ],
)
def test_like_compares_the_whole_text(text: str, pattern: str, expected: bool | None) -> None:
    properties = MessageProperties({}, {"x": text})
    assert evaluate(f"x LIKE {pattern}", properties) is expected
    opposite = None if expected is None else not expected
    assert evaluate(f"x NOT LIKE {pattern}", properties) is opposite


@given(st.text("ab", max_size=8), st.text("ab%_", max_size=8))
def test_like_agrees_with_file_name_wildcards(text: str, pattern: str) -> None:
    expected = fnmatchcase(text, pattern.replace("%", "*").replace("_", "?"))
    assert evaluate(f"x LIKE '{pattern}'", MessageProperties({}, {"x": text})) is expected


def test_like_with_many_wildcards_is_fast() -> None:
    properties = MessageProperties({}, {"x": "a" * 200_000})
    assert evaluate(f"x LIKE '{'%a' * 400}%b'", properties) is False


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "character 1: expected a property or a constant, found the end"),
        ("quantity", "character 1: expected a condition such as price > 10"),
        ("TRUE", "character 1: expected a condition such as price > 10"),
        ("quantity = ", "character 11: expected a property or a constant, found the end"),
        ("quantity == 5", "character 11: expected a property or a constant, found '='"),
        ("quantity = 5 AND price", "character 18: expected a condition such as price > 10"),
        ("(quantity = 5", "character 14: expected ), found the end"),
        ("quantity = 5)", "character 13: expected an operator, found ')'"),
        ("quantity = 5 price = 2", "character 14: expected an operator, found 'price'"),
        ("(1=1) = (1=1)", "character 7: expected an operator, found '='"),
        ("1 = (1=1)", "character 5: expected a value, not a condition"),
        ("(1=1) + 1 = 2", "character 7: expected AND or OR"),
        ("quantity NOT = 5", "character 14: expected IN or LIKE, found '='"),
        ("quantity IS 5", "character 13: expected NULL, found '5'"),
        ("5 IS NULL", "character 3: expected a property before IS"),
        ("quantity IN ()", "character 14: expected a property or a constant, found ')'"),
        ("quantity IN 5", "character 13: expected (, found '5'"),
        ("EXISTS(5)", "character 8: expected a property or a constant, found '5'"),
        ("name = 'open", "character 8: expected a name, a constant or an operator"),
        ("[open = 1", "character 1: expected a name, a constant or an operator"),
        ("$x = 1", "character 1: expected a name, a constant or an operator, found '$'"),
        ("queue.x = 1", "character 1: expected the scope sys or user, found 'queue'"),
        ("length(name) = 1", "character 1: expected newid, property or p"),
        ("sys.Color = 1", "sys.Color: filters cannot use this system property"),
        (
            "@limit = 1",
            "character 1: expected the name of one of the filter's parameters, found '@limit'",
        ),
        ("x = 9223372036854775808", "character 5: expected a number up to 9223372036854775807"),
        ("and = 1", "character 1: expected a property or a constant, found 'and'"),
        ("x = '\0'", "cannot contain control characters"),
        ("x = " + "1" * MAX_LENGTH, f"expected at most {MAX_LENGTH} characters"),
        ("NOT " * (MAX_DEPTH + 1) + "1=1", f"expected at most {MAX_DEPTH} levels"),
        ("(" * (MAX_DEPTH + 1) + "1=1" + ")" * (MAX_DEPTH + 1), f"at most {MAX_DEPTH} levels"),
        ("x = " + "- " * (MAX_DEPTH + 1) + "1", f"expected at most {MAX_DEPTH} levels"),
    ],
)
def test_error_names_position_and_expectation(expression: str, complaint: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        parse_sql(expression)
    assert complaint in str(raised.value)


def test_longest_and_deepest_expressions_work() -> None:
    for expression in (
        "(" * MAX_DEPTH + "1=1" + ")" * MAX_DEPTH,
        "NOT " * MAX_DEPTH + "1=1",
        "1" + "+1" * 500 + "=501",
        "1=1" + " OR 1=1" * 140,
        "1=1" + " AND 1=1" * 125,
        "p(" * MAX_DEPTH + "'x'" + ")" * MAX_DEPTH + " IS NULL",
    ):
        assert evaluate(expression) is True


def test_parameters_have_their_values() -> None:
    rule = SqlFilter("quantity > @limit AND name LIKE @Pattern", {"@limit": 4, "@pattern": "A%"})
    assert rule.matches(PROPERTIES)
    assert not SqlFilter("quantity > @limit", {"limit": 5}).matches(PROPERTIES)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    dated = MessageProperties({}, {"at": at})
    assert parse_sql("at < @now", {"@now": at + timedelta(seconds=1)})(dated) is True


# A second evaluator: it builds the text and the expected value of an expression together.


@dataclass(frozen=True)
class Sample:
    text: str
    value: Any


INTEGERS = st.integers(-99, 99)
NAMES = st.sampled_from(["a", "b", "c"])
ENVIRONMENT: dict[str, Value] = {"a": 7, "b": -3}


def numbers() -> st.SearchStrategy[Sample]:
    leaves = st.one_of(
        INTEGERS.map(lambda value: Sample(f"({value})", value)),
        NAMES.map(lambda name: Sample(name, ENVIRONMENT.get(name))),
    )
    operators: list[tuple[str, Callable[[int, int], int]]] = [
        ("+", operator.add),
        ("-", operator.sub),
        ("*", operator.mul),
    ]

    def combine(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
        def build(left: Sample, sign: tuple[str, Any], right: Sample) -> Sample:
            known = left.value is not None and right.value is not None
            value = sign[1](left.value, right.value) if known else None
            return Sample(f"({left.text} {sign[0]} {right.text})", value)

        return st.builds(build, inner, st.sampled_from(operators), inner)

    return st.recursive(leaves, combine, max_leaves=4)


def conditions() -> st.SearchStrategy[Sample]:
    comparisons: list[tuple[str, Callable[[Any, Any], bool]]] = [
        ("=", operator.eq),
        ("<>", operator.ne),
        ("<", operator.lt),
        (">=", operator.ge),
    ]

    def compare(left: Sample, sign: tuple[str, Any], right: Sample) -> Sample:
        known = left.value is not None and right.value is not None
        value = sign[1](left.value, right.value) if known else None
        return Sample(f"{left.text} {sign[0]} {right.text}", value)

    leaves = st.one_of(
        st.builds(compare, numbers(), st.sampled_from(comparisons), numbers()),
        NAMES.map(lambda name: Sample(f"{name} IS NULL", name not in ENVIRONMENT)),
    )

    def combine(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
        # With the numbers 0, 1/2 and 1, AND is the minimum, OR the maximum and NOT the complement.
        ranks = {False: 0.0, None: 0.5, True: 1.0}
        values = {rank: value for value, rank in ranks.items()}

        def conjoin(left: Sample, word: str, right: Sample) -> Sample:
            choose = min if word == "AND" else max
            value = values[choose(ranks[left.value], ranks[right.value])]
            return Sample(f"({left.text}) {word} ({right.text})", value)

        negated = inner.map(
            lambda each: Sample(f"NOT ({each.text})", values[1 - ranks[each.value]])
        )
        return negated | st.builds(conjoin, inner, st.sampled_from(["AND", "OR"]), inner)

    return st.recursive(leaves, combine, max_leaves=5)


@given(conditions())
def test_random_expression_has_the_computed_value(sample: Sample) -> None:
    if len(sample.text) <= MAX_LENGTH:
        assert evaluate(sample.text, MessageProperties({}, ENVIRONMENT)) is sample.value


@given(conditions(), conditions(), conditions())
def test_precedence_groups_without_parentheses(one: Sample, two: Sample, three: Sample) -> None:
    def ask(text: str) -> bool | None:
        return evaluate(text, MessageProperties({}, ENVIRONMENT))

    one_text, two_text, three_text = f"({one.text})", f"({two.text})", f"({three.text})"
    plain = f"{one_text} OR NOT {two_text} AND {three_text}"
    grouped = f"{one_text} OR ((NOT {two_text}) AND {three_text})"
    if len(grouped) <= MAX_LENGTH:
        assert ask(plain) is ask(grouped)
    negated = f"NOT ({one_text} AND {two_text})"
    by_law = f"NOT {one_text} OR NOT {two_text}"
    if len(by_law) <= MAX_LENGTH:
        assert ask(negated) is ask(by_law)


PIECES = st.sampled_from(
    [
        *("a", "b", "1", "2.5", "'x'", "[y]", '"z"', "@p", "sys.", "user.", "p(", "newid()"),
        *("(", ")", ",", ".", "=", "<>", "<", "+", "-", "*", "/", "%", "'", "[", '"', "]"),
        *("AND", "OR", "NOT", "IN", "LIKE", "ESCAPE", "IS", "NULL", "EXISTS", "TRUE"),
        *("é", "\u0660", "\U0001f600"),
    ]
)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
    st.uuids(),
    st.datetimes(timezones=st.just(UTC)),
    st.timedeltas(timedelta(0), timedelta(days=10_000)),
)


@given(
    st.lists(PIECES, max_size=40).map(" ".join) | st.text(max_size=60),
    st.dictionaries(st.sampled_from(["a", "b", "y", "z"]), VALUES),
)
@example("0000000000000000000000000000000000000000.1E9999999=1", {})
@example("a LIKE a", {"a": "%" * 2000})
def test_any_text_is_evaluated_or_refused(text: str, application: dict[str, Value]) -> None:
    for statement in ("SET a = ", "REMOVE "):
        with suppress(ArgumentError):
            SqlAction(statement + text, {"@p": 1}).run(MessageProperties({}, application))
    try:
        predicate = parse_sql(text, {"@p": 1})
    except ArgumentError:
        return
    assert predicate(MessageProperties({}, application)) in {True, False, None}


@given(VALUES)
def test_value_survives_its_text(value: Value) -> None:
    check_value(value)
    found = value_from_text(*value_text(value))
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int", "x"), ("int", "1" * 30), ("boolean", "yes"), ("guid", "1"), ("array", "1")],
)
def test_text_that_is_no_value_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ArgumentError):
        value_from_text(kind, text)


@given(
    st.dictionaries(st.sampled_from(["CorrelationId", "To", "Label"]), st.just("x")),
    st.dictionaries(st.text("abAB", min_size=1), VALUES, max_size=3),
)
def test_correlation_filter_needs_all_properties(
    system: dict[str, str], application: dict[str, Value]
) -> None:
    if not system and not application:
        with pytest.raises(ArgumentError, match="at least one property"):
            CorrelationFilter(system, application)
        return
    rule = CorrelationFilter(system, application)
    folded = {name.casefold(): value for name, value in application.items()}
    full = MessageProperties({name.casefold(): "x" for name in system}, folded)
    if len(folded) == len(application):
        assert rule.matches(full)
    for name in system:
        without = {key: value for key, value in full.system.items() if key != name.casefold()}
        assert not rule.matches(MessageProperties(without, folded))
    for name in folded:
        other: dict[str, Value] = {**folded, name: UUID(int=7)}
        assert not rule.matches(MessageProperties(full.system, other))
    saved = SubscriptionRule("rule", rule)
    assert rule_from_values(rule_to_values(saved)) == saved


def test_correlation_filter_distinguishes_case_and_type() -> None:
    rule = CorrelationFilter({}, {"Color": "Red"})
    assert rule.matches(MessageProperties({}, {"color": "Red"}))
    assert not rule.matches(MessageProperties({}, {"color": "red"}))
    number = CorrelationFilter({}, {"n": 1})
    assert number.matches(MessageProperties({}, {"n": 1.0}))
    assert not number.matches(MessageProperties({}, {"n": True}))
    assert not number.matches(MessageProperties({}, {"n": "1"}))


@pytest.mark.parametrize(
    "rule",
    [
        SubscriptionRule("$Default"),
        SubscriptionRule("none", BooleanFilter(selects_all=False)),
        SubscriptionRule("sql", SqlFilter("a > @p", {"@p": 2.5})),
        SubscriptionRule("act", BooleanFilter(), SqlAction("SET a = @p", {"@p": UUID(int=1)})),
    ],
)
def test_stored_rule_is_read_unchanged(rule: SubscriptionRule) -> None:
    assert rule_from_values(rule_to_values(rule)) == rule


@pytest.mark.parametrize("name", ["", "$other", "a/b", "a b", "x" * 51])
def test_invalid_rule_name_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="is not a valid rule name"):
        SubscriptionRule(name)


@pytest.mark.parametrize(
    ("expression", "updates"),
    [
        ("SET sys.To = 'Entity'", [PropertyUpdate("To", "Entity", is_system=True)]),
        ("set SYS.Subject = sys.label + '!';", [PropertyUpdate("Label", "bus!", is_system=True)]),
        ("REMOVE quantity", [PropertyUpdate("quantity", None, is_removed=True)]),
        ("REMOVE sys.To", [PropertyUpdate("To", None, is_system=True, is_removed=True)]),
        ("SET x = missing", [PropertyUpdate("x", None)]),
        (
            "SET x = quantity SET x = x * 2, REMOVE user.name; SET [y z] = name;",
            [
                PropertyUpdate("x", 5),
                PropertyUpdate("x", 10),
                PropertyUpdate("name", None, is_removed=True),
                PropertyUpdate("y z", None),
            ],
        ),
    ],
)
def test_action_runs_its_statements_in_order(
    expression: str, updates: list[PropertyUpdate]
) -> None:
    assert SqlAction(expression).run(PROPERTIES) == updates


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "character 1: expected SET or REMOVE, found the end"),
        ("quantity = 5", "character 1: expected SET or REMOVE, found 'quantity'"),
        ("SET x", "character 6: expected =, found the end"),
        ("SET x = 1=1", "character 10: expected SET or REMOVE, found '='"),
        ("SET x = (1=1)", "character 9: expected a value, not a condition"),
        ("REMOVE 5", "character 8: expected a property or a constant, found '5'"),
        ("SET sys.Color = 1", "sys.Color: filters cannot use this system property"),
        ("SET sys.SessionId = 'x'", "sys.SessionId: actions cannot change this system property"),
        ("REMOVE x;" * 33, "expected at most 32 statements, found 'REMOVE'"),
        ("REMOVE " + "x" * MAX_LENGTH, f"expected at most {MAX_LENGTH} characters"),
    ],
)
def test_invalid_action_names_what_was_expected(expression: str, complaint: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        parse_action(expression)
    assert complaint in str(raised.value)
