"""Read the schemas of a model's parameters in the catalogue, and check what callers send.

A schema may have these keys of JSON Schema:

    type         number, integer, boolean, string or array
    description  a text for callers
    default      the value that the model uses if the caller sends none
    enum         the allowed values
    minimum, maximum      bounds of a number or an integer
    items                 the schema of an array's elements, which cannot be arrays
    minItems, maxItems    bounds of the length of an array
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from contract.errors import CatalogueError

Schema = Mapping[str, Any]
"""The JSON Schema of one parameter."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
}
_BOUNDED: Final = frozenset({"number", "integer"})
_KEYS_OF_TYPE: Final[Mapping[str, set[str]]] = {
    "number": {"minimum", "maximum"},
    "integer": {"minimum", "maximum"},
    "array": {"items", "minItems", "maxItems"},
}
_EXPECTED: Final[Mapping[str, str]] = {
    "description": "a string",
    "minimum": "a number",
    "maximum": "a number",
    "minItems": "a whole number of at least 0",
    "maxItems": "a whole number of at least 0",
}
_BOUNDS: Final = (("minimum", "maximum"), ("minItems", "maxItems"))
_NAMES: Final[Mapping[str, str]] = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "a string",
    "array": "an array",
}
_SHOWN_CHARACTERS: Final = 60


class InvalidParameter(ValueError):
    """A parameter does not match the schema. `pointer` is its JSON Pointer in all parameters."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"parameters{pointer}: {detail}")
        self.pointer = pointer


def read_schemas(path: str, value: Any) -> Mapping[str, Schema]:
    """Return the schemas of parameters by name, or raise CatalogueError with the `path`."""
    if not isinstance(value, dict):
        raise CatalogueError(
            f'{path}: expected a table, for example {{top = {{type = "integer"}}}}'
        )
    for name, schema in value.items():
        _check_schema(f"{path}.{name}", schema)
    return MappingProxyType(value)


def _check_schema(path: str, schema: Any, *, is_element: bool = False) -> None:
    kind = schema.get("type") if isinstance(schema, dict) else None
    known = [each for each in _TYPES if not (is_element and each == "array")]
    if not isinstance(kind, str) or kind not in known:
        raise CatalogueError(
            f'{path}: expected a table whose key "type" has one of the values {", ".join(known)}'
        )
    for key, value in schema.items():
        if key not in {"type", "description", "default", "enum"} | _KEYS_OF_TYPE.get(kind, set()):
            raise CatalogueError(f"{path}.{key}: a schema of the type {kind} has no such key")
        if key == "items":
            _check_schema(f"{path}.items", value, is_element=True)
        elif not _fits(kind, key, value):
            expected = _EXPECTED.get(key, f"a list of one or more values of the type {kind}")
            raise CatalogueError(f"{path}.{key}: expected {expected}, found {value!r:.100}")
    for low, high in _BOUNDS:
        if low in schema and high in schema and schema[low] > schema[high]:
            raise CatalogueError(
                f"{path}: the value of {low}, {schema[low]}, is greater than the value of {high}, "
                f"{schema[high]}"
            )
    if "default" in schema:
        try:
            _check_value("", schema, schema["default"])
        except InvalidParameter as error:
            detail = str(error).removeprefix("parameters")
            raise CatalogueError(f"{path}.default{detail}") from None


def _fits(kind: str, key: str, value: Any) -> bool:
    """Return whether a schema of the type `kind` may contain `key` with this value."""
    match key:
        case "type" | "description":
            return isinstance(value, str)
        case "minimum" | "maximum":
            return _has_type(value, "number")
        case "minItems" | "maxItems":
            return _has_type(value, "integer") and value >= 0
        case "enum":
            is_list = isinstance(value, list) and bool(value)
            return is_list and all(_has_type(each, kind) for each in value)
    return True


def check_parameters(schemas: Mapping[str, Schema], given: Mapping[str, Any]) -> None:
    """Check what a caller has sent, who may omit each parameter. Raises InvalidParameter."""
    for name, value in given.items():
        pointer = "/" + name[:_SHOWN_CHARACTERS].replace("~", "~0").replace("/", "~1")
        schema = schemas.get(name)
        if schema is None:
            names = f"it has {', '.join(schemas)}" if schemas else "it has no parameters"
            raise InvalidParameter(pointer, f"the model has no such parameter; {names}")
        _check_value(pointer, schema, value)


def _check_value(pointer: str, schema: Schema, value: Any) -> None:
    expected = _expectation(schema)
    if not _matches(schema, value):
        shown = repr(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS]}…"
        raise InvalidParameter(pointer, f"expected {expected}, found {shown}")
    if isinstance(value, list) and "items" in schema:
        for index, each in enumerate(value):
            _check_value(f"{pointer}/{index}", schema["items"], each)


def _matches(schema: Schema, value: Any) -> bool:
    """Return whether a value has the type of the schema and satisfies its bounds and choices."""
    if not _has_type(value, schema["type"]):
        return False
    # In Python, 1 equals True, so the types are compared, too.
    if "enum" in schema and not any(
        each == value and isinstance(each, bool) == isinstance(value, bool)
        for each in schema["enum"]
    ):
        return False
    if schema["type"] in _BOUNDED:
        # Written so that NaN does not match.
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
    return True


def _has_type(value: Any, kind: str) -> bool:
    """Return whether a value has the JSON type `kind`. True is no integer, unlike in Python."""
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _expectation(schema: Schema) -> str:
    """Describe in words which values match the schema, for example `a number from 0 to 1`."""
    text = _NAMES[schema["type"]]
    for (low, high), unit in zip(_BOUNDS, ("", " elements"), strict=True):
        if low in schema and high in schema:
            text += f" from {schema[low]} to {schema[high]}{unit}"
        elif low in schema:
            text += f" of at least {schema[low]}{unit}"
        elif high in schema:
            text += f" of at most {schema[high]}{unit}"
    if "enum" in schema:
        text += f": one of {', '.join(map(repr, schema['enum']))}"
    return text
