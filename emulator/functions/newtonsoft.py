"""Read JSON as Newtonsoft.Json does, with which Azure's host reads its files and request bodies.

The library accepts more than JSON: single quotation marks, names without quotation marks, comments,
`NaN` and `Infinity`. Numbers that are too large become "Infinity". The text of an error contains
the position of the error in the JSON text.
"""

import json
import re
from json.encoder import encode_basestring as quoted
from math import isinf

_SPACE = re.compile(r"(?:\s+|/\*.*?\*/|//[^\n]*)*", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NAME = re.compile(r"[\w$]+")
_WORDS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "undefined": "null",
    "NaN": '"NaN"',
    "Infinity": '"Infinity"',
    "-Infinity": '"-Infinity"',
}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_DEEPEST = 200


class JsonReaderError(ValueError):
    """Newtonsoft.Json would refuse the text. The error text is that of Newtonsoft.Json."""


def normalize_json(body: bytes) -> str:
    """Convert JSON in Newtonsoft's dialect to standard JSON. Raises JsonReaderError."""
    try:
        text = body.decode("utf-8-sig")
        json.loads(text, parse_constant=_refuse, parse_float=_check_finite)
    except UnicodeDecodeError as problem:
        raise JsonReaderError(f"The body is not UTF-8: {problem}") from problem
    except (ValueError, RecursionError):
        return _Reader(text).read_document()  # accepts the text, or says what is wrong
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_finite(number: str) -> None:
    if isinf(float(number)):
        raise ValueError(f"{number} is not finite")


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read_document(self) -> str:
        self._skip()
        if self._at == len(self._text):
            raise JsonReaderError(
                "Error reading JToken from JsonReader. Path '', line 0, position 0."
            )
        found = self._value(0)
        self._skip()
        if self._at < len(self._text):
            raise self._error(
                "Additional text encountered after finished reading JSON content: "
                f"{self._text[self._at]}"
            )
        return found

    def _value(self, depth: int) -> str:
        if depth > _DEEPEST:
            raise self._error(f"The reader's MaxDepth of {_DEEPEST} has been exceeded")
        first = self._peek()
        if first == "{":
            return self._object(depth)
        if first == "[":
            return self._array(depth)
        if first in {'"', "'"}:
            return quoted(self._string())
        for word, found in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return found
        number = _NUMBER.match(self._text, self._at)
        if number is None:
            raise self._error(f"Unexpected character encountered while parsing value: {first}")
        self._at = number.end()
        is_finite = abs(float(number[0])) != float("inf") if "e" in number[0].lower() else True
        return number[0] if is_finite else quoted("-" * (first == "-") + "Infinity")

    def _object(self, depth: int) -> str:
        self._at += 1
        members: dict[str, str] = {}
        while self._peek() != "}":
            name = self._property_name()
            found = self._peek()
            if found != ":":
                raise self._error(
                    f"Invalid character after parsing property name. Expected ':' but got: {found}"
                )
            self._at += 1
            members[name] = self._value(depth + 1)
            if self._peek() == ",":
                self._at += 1
            elif self._peek() != "}":
                raise self._error(
                    f"After parsing a value an unexpected character was encountered: {self._peek()}"
                )
        self._at += 1
        return f"{{{','.join(f'{quoted(name)}:{value}' for name, value in members.items())}}}"

    def _property_name(self) -> str:
        if self._peek() in {'"', "'"}:
            return self._string()
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise self._error(f"Invalid property identifier character: {self._peek()}")
        self._at = name.end()
        if self._at == len(self._text):
            raise self._error("Unexpected end while parsing unquoted property name")
        return name[0]

    def _array(self, depth: int) -> str:
        self._at += 1
        items: list[str] = []
        while self._peek() != "]":
            items.append(self._value(depth + 1))
            if self._peek() == ",":
                self._at += 1
            elif self._peek() != "]":
                raise self._error(
                    f"After parsing a value an unexpected character was encountered: {self._peek()}"
                )
        self._at += 1
        return f"[{','.join(items)}]"

    def _string(self) -> str:
        quote = self._text[self._at]
        self._at += 1
        pieces: list[str] = []
        while True:
            if self._at >= len(self._text):
                raise self._error(f"Unterminated string. Expected delimiter: {quote}")
            character = self._text[self._at]
            self._at += 1
            if character == quote:
                return "".join(pieces)
            pieces.append(self._escape() if character == "\\" else character)

    def _escape(self) -> str:
        character = self._text[self._at : self._at + 1]
        self._at += 1
        if character != "u":
            return _ESCAPES.get(character, character)
        digits = self._text[self._at : self._at + 4]
        try:
            code = int(digits, 16)
        except ValueError:
            raise self._error(f"Invalid Unicode escape sequence: \\u{digits}") from None
        self._at += 4
        return chr(code)

    def _peek(self) -> str:
        """Skip blanks and comments, and return the next character. Raises JsonReaderError."""
        self._skip()
        if self._at >= len(self._text):
            raise self._error("Unexpected end when reading JSON")
        return self._text[self._at]

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _error(self, problem: str) -> JsonReaderError:
        # The reader has not consumed anything if the first character is wrong.
        before = self._text[: self._at]
        line = before.count("\n") + 1 if self._at else 0
        position = self._at - (before.rfind("\n") + 1)
        return JsonReaderError(f"{problem}. Path '', line {line}, position {position}.")
