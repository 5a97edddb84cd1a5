"""Parse and evaluate the expressions of SQL filters and SQL actions.

"Subscription rule SQL filter syntax" and "Subscription rule SQL action syntax"
(learn.microsoft.com) describe the language. The language has three truth values: true, false and
unknown, which is None here. A message matches a filter only if the expression is true.

The result of an operation is unknown if one of its operands is unknown, or if the types of the
operands do not fit. The value of a property that the message does not have is unknown.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn
from uuid import uuid4

from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.property_values import (
    MessageProperties,
    PropertyUpdate,
    Value,
    can_compare,
    check_system_property,
    check_update,
    check_value,
    compare_values,
    is_number,
    system_property_name,
)

MAX_LENGTH = 1024
"""The maximum length of an expression in characters, as in Azure."""
MAX_DEPTH = 32
"""The maximum depth of parentheses, signs and NOT in an expression."""

_MAX_STATEMENTS = 32
_MAX_TEXT_LENGTH = 1024 * 1024
_MAX_PATTERN_LENGTH = 1024
_MAX_INTEGER = 2**63 - 1

Predicate = Callable[[MessageProperties], bool | None]
"""Returns whether a message matches. None means unknown."""
_Expression = Callable[[MessageProperties], Value | None]


def parse_sql(expression: str, parameters: Mapping[str, Value] | None = None) -> Predicate:
    """Parse a SQL filter. Raises ArgumentError with the position of the invalid character."""
    return _start(expression, parameters or {}).parse()


@dataclass(frozen=True, slots=True)
class SqlStatement:
    """One statement of an action: SET gives a property a value, REMOVE removes a property."""

    name: str
    is_system: bool
    evaluate: _Expression | None
    """Returns the new value of the property. None for REMOVE."""

    def run(self, properties: MessageProperties) -> PropertyUpdate:
        """Return the change that the statement makes to a message with these properties."""
        if self.evaluate is None:
            return PropertyUpdate(self.name, None, self.is_system, is_removed=True)
        return PropertyUpdate(self.name, self.evaluate(properties), self.is_system)


def parse_action(
    expression: str, parameters: Mapping[str, Value] | None = None
) -> Sequence[SqlStatement]:
    """Parse a SQL action, such as `SET a = 1; REMOVE b`. Raises ArgumentError."""
    return _start(expression, parameters or {}).parse_action()


def _start(expression: str, parameters: Mapping[str, Value]) -> "_Parser":
    if len(expression) > MAX_LENGTH:
        raise ArgumentError(f"SqlExpression: expected at most {MAX_LENGTH} characters")
    for text in (expression, *parameters, *parameters.values()):
        check_value(text)
    values = {name.removeprefix("@").casefold(): value for name, value in parameters.items()}
    return _Parser(expression, _tokenize(expression), values)


class _Kind(Enum):
    WORD = auto()
    IDENTIFIER = auto()
    """An identifier in brackets or in double quotation marks."""
    TEXT = auto()
    INTEGER = auto()
    FLOAT = auto()
    PARAMETER = auto()
    SIGN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    position: int

    def is_word(self, *words: str) -> bool:
        return self.kind is _Kind.WORD and self.text.upper() in words

    def is_sign(self, *signs: str) -> bool:
        return self.kind is _Kind.SIGN and self.text in signs

    @property
    def shown(self) -> str:
        return "the end" if self.kind is _Kind.END else repr(self.text[:50])


_TOKENS = re.compile(
    r"\s*(?:"
    r"(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)"
    r"|(?P<integer>\d+)"
    r"|(?P<parameter>@[^\W\d_]\w*)"
    r"|(?P<word>[^\W\d_]\w*)"
    r"|'(?P<text>(?:[^']|'')*)'"
    r'|"(?P<quoted>(?:[^"]|"")*)"'
    r"|\[(?P<delimited>(?:[^\]]|\]\])*)\]"
    r"|(?P<sign><>|!=|<=|>=|[=<>+\-*/%(),.;])"
    r")"
)
_QUOTES = {"text": "'", "quoted": '"', "delimited": "]"}
_KINDS = {
    "float": _Kind.FLOAT,
    "integer": _Kind.INTEGER,
    "parameter": _Kind.PARAMETER,
    "word": _Kind.WORD,
    "text": _Kind.TEXT,
    "quoted": _Kind.IDENTIFIER,
    "delimited": _Kind.IDENTIFIER,
    "sign": _Kind.SIGN,
}


def _tokenize(expression: str) -> list[_Token]:
    tokens = []
    offset = 0
    end = len(expression.rstrip())
    while offset < end:
        match = _TOKENS.match(expression, offset)
        if match is None or match.lastgroup is None:
            at = end - len(expression[offset:end].lstrip())
            raise _error(at + 1, "expected a name, a constant or an operator", expression[at])
        group = match.lastgroup
        text = match[group]
        if group in _QUOTES:
            text = text.replace(_QUOTES[group] * 2, _QUOTES[group])
        position = match.end() - len(match[0].lstrip()) + 1
        tokens.append(_Token(_KINDS[group], text, position))
        offset = match.end()
    tokens.append(_Token(_Kind.END, "", end + 1))
    return tokens


def _error(position: int, problem: str, found: str) -> ArgumentError:
    return ArgumentError(f"SqlExpression: character {position}: {problem}, found {found!r}")


_CONSTANTS = frozenset((_Kind.INTEGER, _Kind.FLOAT, _Kind.TEXT, _Kind.PARAMETER))
_KEYWORDS = frozenset(
    ("AND", "ESCAPE", "EXISTS", "FALSE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "TRUE")
)
_COMPARISONS: dict[str, Callable[[Value, Value], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class _Operand:
    """A parsed part of an expression: a predicate, such as `a = 1`, or a value, such as `a + 1`."""

    evaluate: _Expression
    is_predicate: bool = False
    is_property: bool = False


class _Parser:
    """A recursive-descent parser, with one method for each level of precedence."""

    def __init__(
        self, expression: str, tokens: Sequence[_Token], parameters: Mapping[str, Value]
    ) -> None:
        self._expression = expression
        self._tokens = tokens
        self._parameters = parameters
        self._next = 0
        self._depth = 0

    def parse(self) -> Predicate:
        start = self._token
        operand = self._or()
        if self._token.kind is not _Kind.END:
            self._fail("expected an operator")
        if not operand.is_predicate:
            raise _error(
                start.position, "expected a condition such as price > 10", self._expression
            )
        return _as_predicate(operand)

    def parse_action(self) -> list[SqlStatement]:
        statements = [self._statement()]
        while True:
            self._take_sign(";", ",")
            if self._token.kind is _Kind.END:
                return statements
            if len(statements) >= _MAX_STATEMENTS:
                self._fail(f"expected at most {_MAX_STATEMENTS} statements")
            statements.append(self._statement())

    def _statement(self) -> SqlStatement:
        is_set = self._token.is_word("SET")
        if not self._take_word("SET", "REMOVE"):
            self._fail("expected SET or REMOVE")
        name, is_system = self._scoped_name()
        if is_system:
            check_update(name)
            name = system_property_name(name)
        if not is_set:
            return SqlStatement(name, is_system, None)
        self._expect_sign("=")
        return SqlStatement(name, is_system, self._value(self._sum))

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        if token.kind is not _Kind.END:
            self._next += 1
        return token

    def _take_word(self, *words: str) -> bool:
        if self._token.is_word(*words):
            self._next += 1
            return True
        return False

    def _take_sign(self, *signs: str) -> bool:
        if self._token.is_sign(*signs):
            self._next += 1
            return True
        return False

    def _expect_sign(self, sign: str) -> None:
        if not self._take_sign(sign):
            self._fail(f"expected {sign}")

    def _fail(self, problem: str) -> NoReturn:
        token = self._token
        raise ArgumentError(
            f"SqlExpression: character {token.position}: {problem}, found {token.shown}"
        )

    def _nest(self, parse: Callable[[], _Operand]) -> _Operand:
        if self._depth >= MAX_DEPTH:
            self._fail(f"expected at most {MAX_DEPTH} levels of parentheses, signs and NOT")
        self._depth += 1
        operand = parse()
        self._depth -= 1
        return operand

    # Predicates

    def _or(self) -> _Operand:
        return self._chain("OR", self._and, _any)

    def _and(self) -> _Operand:
        return self._chain("AND", self._not, _all)

    def _chain(
        self,
        word: str,
        parse: Callable[[], _Operand],
        combine: Callable[[Sequence[Predicate]], Predicate],
    ) -> _Operand:
        position = self._token.position
        first = parse()
        if not self._token.is_word(word):
            return first
        parts = [self._predicate(first, position)]
        while self._take_word(word):
            position = self._token.position
            parts.append(self._predicate(parse(), position))
        return _Operand(combine(parts), is_predicate=True)

    def _predicate(self, operand: _Operand, position: int) -> Predicate:
        if not operand.is_predicate:
            found = self._expression[position - 1 : position + 49]
            raise _error(position, "expected a condition such as price > 10", found)
        return _as_predicate(operand)

    def _not(self) -> _Operand:
        if not self._take_word("NOT"):
            return self._comparison()
        position = self._token.position
        return _Operand(
            _negate(self._predicate(self._nest(self._not), position)), is_predicate=True
        )

    def _comparison(self) -> _Operand:
        if self._take_word("EXISTS"):
            self._expect_sign("(")
            name = self._property()
            self._expect_sign(")")
            return _Operand(_is_null(name, expected=False), is_predicate=True)
        left = self._sum()
        token = self._token
        if left.is_predicate:
            return left
        if self._take_sign(*_COMPARISONS):
            right = self._value(self._sum)
            return _Operand(
                _compare(_COMPARISONS[token.text], left.evaluate, right), is_predicate=True
            )
        if self._take_word("IS"):
            expected = not self._take_word("NOT")
            if not self._take_word("NULL"):
                self._fail("expected NULL")
            if not left.is_property:
                raise ArgumentError(
                    f"SqlExpression: character {token.position}: expected a property before IS"
                )
            return _Operand(_is_null(left.evaluate, expected=expected), is_predicate=True)
        is_negated = self._take_word("NOT")
        if self._take_word("IN"):
            found = self._list(left.evaluate)
        elif self._take_word("LIKE"):
            found = self._like(left.evaluate)
        elif is_negated:
            self._fail("expected IN or LIKE")
        else:
            return left
        return _Operand(_negate(found) if is_negated else found, is_predicate=True)

    def _list(self, left: _Expression) -> Predicate:
        self._expect_sign("(")
        items = [self._value(self._sum)]
        while self._take_sign(","):
            items.append(self._value(self._sum))
        self._expect_sign(")")
        return _any([_compare(operator.eq, left, item) for item in items])

    def _like(self, left: _Expression) -> Predicate:
        pattern = self._value(self._sum)
        escape = self._value(self._sum) if self._take_word("ESCAPE") else None
        return _like(left, pattern, escape)

    # Expressions

    def _value(self, parse: Callable[[], _Operand]) -> _Expression:
        position = self._token.position
        operand = parse()
        if operand.is_predicate:
            found = self._expression[position - 1 : position + 49]
            raise _error(position, "expected a value, not a condition", found)
        return operand.evaluate

    def _sum(self) -> _Operand:
        return self._arithmetic(("+", "-"), self._product)

    def _product(self) -> _Operand:
        return self._arithmetic(("*", "/", "%"), self._signed)

    def _arithmetic(self, signs: tuple[str, ...], parse: Callable[[], _Operand]) -> _Operand:
        first = parse()
        if not self._token.is_sign(*signs):
            return first
        if first.is_predicate:
            self._fail("expected AND or OR after a condition")
        steps = []
        while self._token.is_sign(*signs):
            sign = self._take().text
            steps.append((_ARITHMETIC[sign], self._value(parse)))
        return _Operand(_compute(first.evaluate, steps))

    def _signed(self) -> _Operand:
        if self._take_sign("+"):
            return _Operand(_sign(self._value(lambda: self._nest(self._signed)), operator.pos))
        if self._take_sign("-"):
            return _Operand(_sign(self._value(lambda: self._nest(self._signed)), operator.neg))
        return self._primary()

    def _primary(self) -> _Operand:
        token = self._token
        if self._take_sign("("):
            inner = self._nest(self._or)
            self._expect_sign(")")
            return inner
        if token.kind in _CONSTANTS or token.is_word("TRUE", "FALSE", "NULL"):
            return _constant(self._constant_value())
        if token.kind is _Kind.WORD and self._tokens[self._next + 1].is_sign("("):
            return self._function()
        return _Operand(self._property(), is_property=True)

    def _constant_value(self) -> Value | None:
        token = self._take()
        match token.kind:
            case _Kind.INTEGER:
                value = int(token.text)
                if value > _MAX_INTEGER:
                    problem = f"expected a number up to {_MAX_INTEGER}"
                    raise _error(token.position, problem, token.text)
                return value
            case _Kind.FLOAT:
                return float(token.text)
            case _Kind.TEXT:
                return token.text
            case _Kind.PARAMETER:
                return self._parameter(token)
        return {"TRUE": True, "FALSE": False}.get(token.text.upper())

    def _parameter(self, token: _Token) -> Value:
        key = token.text.removeprefix("@").casefold()
        if key not in self._parameters:
            raise _error(
                token.position, "expected the name of one of the filter's parameters", token.text
            )
        return self._parameters[key]

    def _function(self) -> _Operand:
        name = self._token.text.lower()
        if name not in {"newid", "property", "p"}:
            self._fail("expected newid, property or p before the parenthesis")
        self._take()
        self._expect_sign("(")
        if name == "newid":
            self._expect_sign(")")
            return _Operand(lambda _: uuid4())
        argument = self._value(lambda: self._nest(self._sum))
        self._expect_sign(")")
        return _Operand(_dynamic_property(argument), is_property=True)

    def _property(self) -> _Expression:
        name, is_system = self._scoped_name()
        if not is_system:
            return lambda properties: properties.application_value(name)
        check_system_property(name)
        return lambda properties: properties.system_value(name)

    def _scoped_name(self) -> tuple[str, bool]:
        """Return the name of a property, and whether it is a system property."""
        token = self._token
        name = self._name()
        if token.kind is not _Kind.WORD or not self._take_sign("."):
            return name, False
        if name.lower() not in {"sys", "user"}:
            raise _error(token.position, "expected the scope sys or user", name)
        return self._name(), name.lower() == "sys"

    def _name(self) -> str:
        token = self._token
        is_keyword = token.kind is _Kind.WORD and token.text.upper() in _KEYWORDS
        if token.kind not in {_Kind.WORD, _Kind.IDENTIFIER} or is_keyword:
            self._fail("expected a property or a constant")
        self._take()
        return token.text


def _constant(value: Value | None) -> _Operand:
    return _Operand(lambda _: value)


def _as_predicate(operand: _Operand) -> Predicate:
    evaluate = operand.evaluate

    def predicate(properties: MessageProperties) -> bool | None:
        value = evaluate(properties)
        assert isinstance(value, bool | None)
        return value

    return predicate


def _all(parts: Sequence[Predicate]) -> Predicate:
    def predicate(properties: MessageProperties) -> bool | None:
        result: bool | None = True
        for part in parts:
            value = part(properties)
            if value is False:
                return False
            if value is None:
                result = None
        return result

    return predicate


def _any(parts: Sequence[Predicate]) -> Predicate:
    def predicate(properties: MessageProperties) -> bool | None:
        result: bool | None = False
        for part in parts:
            value = part(properties)
            if value is True:
                return True
            if value is None:
                result = None
        return result

    return predicate


def _negate(part: Predicate) -> Predicate:
    def predicate(properties: MessageProperties) -> bool | None:
        value = part(properties)
        return None if value is None else not value

    return predicate


def _is_null(name: _Expression, *, expected: bool) -> Predicate:
    return lambda properties: (name(properties) is None) is expected


def _compare(
    compare: Callable[[Value, Value], bool], left: _Expression, right: _Expression
) -> Predicate:
    def predicate(properties: MessageProperties) -> bool | None:
        one, other = left(properties), right(properties)
        if one is None or other is None:
            return None
        if compare is operator.eq:
            return compare_values(one, other)
        if not can_compare(one, other):
            return None
        if compare is not operator.ne and isinstance(one, bool):
            return None
        return compare(one, other)

    return predicate


def _like(left: _Expression, pattern: _Expression, escape: _Expression | None) -> Predicate:
    def predicate(properties: MessageProperties) -> bool | None:
        text, wanted = left(properties), pattern(properties)
        mark = None if escape is None else escape(properties)
        if not isinstance(text, str) or not isinstance(wanted, str):
            return None
        if escape is not None and not (isinstance(mark, str) and len(mark) == 1):
            return None
        if len(wanted) > _MAX_PATTERN_LENGTH:
            return None
        return _matches(text, wanted, mark if isinstance(mark, str) else None)

    return predicate


def _matches(text: str, pattern: str, escape: str | None) -> bool | None:
    """Return whether a text matches a pattern of LIKE, or None if the pattern is invalid.

    The parts between `%` are searched one after the other, so many `%` need little time.
    """
    parts = [""]
    is_escaped = False
    for character in pattern:
        if is_escaped:
            parts[-1] += re.escape(character)
            is_escaped = False
        elif character == escape:
            is_escaped = True
        elif character == "%":
            parts.append("")
        else:
            parts[-1] += "." if character == "_" else re.escape(character)
    if is_escaped:
        return None
    first, *rest = [re.compile(part, re.DOTALL) for part in parts]
    if not rest:
        return first.fullmatch(text) is not None
    found = first.match(text)
    for part in rest[:-1]:
        if found is None:
            return False
        found = part.search(text, found.end())
    if found is None:
        return False
    last = re.compile(f"(?:{rest[-1].pattern})\\Z", re.DOTALL)
    return last.search(text, found.end()) is not None


def _dynamic_property(name: _Expression) -> _Expression:
    def evaluate(properties: MessageProperties) -> Value | None:
        value = name(properties)
        return properties.application_value(value) if isinstance(value, str) else None

    return evaluate


def _sign(operand: _Expression, apply: Callable[[float], float]) -> _Expression:
    def evaluate(properties: MessageProperties) -> Value | None:
        value = operand(properties)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return _in_range(apply(value))

    return evaluate


def _compute(
    first: _Expression, steps: Sequence[tuple[Callable[[float, float], float], _Expression]]
) -> _Expression:
    def evaluate(properties: MessageProperties) -> Value | None:
        result = first(properties)
        for compute, operand in steps:
            other = operand(properties)
            if result is None or other is None:
                return None
            result = _apply(compute, result, other)
        return result

    return evaluate


def _apply(compute: Callable[[float, float], float], left: Value, right: Value) -> Value | None:
    if isinstance(left, str) and isinstance(right, str):
        is_short = len(left) + len(right) <= _MAX_TEXT_LENGTH
        return left + right if compute is operator.add and is_short else None
    if not (is_number(left) and is_number(right)):
        return None
    assert isinstance(left, int | float)
    assert isinstance(right, int | float)
    try:
        return _in_range(compute(left, right))
    except (ZeroDivisionError, OverflowError, ValueError):
        return None


def _in_range(value: float) -> float | None:
    """Return `value`, or None if `value` is an integer that does not fit into 64 bits."""
    if isinstance(value, int) and not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
        return None
    return value


def _divide(left: float, right: float) -> float:
    """Divide as C# does: the quotient of two integers is rounded toward zero."""
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    return left / right


def _remainder(left: float, right: float) -> float:
    """Return the remainder as in C#: the remainder has the sign of the dividend."""
    if isinstance(left, int) and isinstance(right, int):
        remainder = abs(left) % abs(right)
        return remainder if left >= 0 else -remainder
    return math.fmod(left, right)


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": _remainder,
}
