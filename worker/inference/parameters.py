"""The typed parameters of a model: the keyword-only arguments of its `__call__` or `preprocess`.

    def __call__(
        self,
        image: Image,
        *,
        top: Annotated[int, Range(1, 100), "How many labels."] = 5,
        mode: Literal["fast", "good"] = "good",
    ) -> dict[str, object]: ...

The gateway must know the parameters without the model's code. Therefore the catalogue entry
repeats them as schemas, which `loosely models describe NAME` prints. A model whose entry differs
from its arguments is not loaded.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from contract.messages import Json
from contract.parameters import Schema
from worker.errors import InvalidInput, ModelUnfit
from worker.models.ranges import Range

Parameters = Mapping[str, Json]
"""The parameters that the caller sent with the input."""

_MAPPING: Final = "parameters"
"""The name of the argument in which a model's method receives all parameters as one mapping."""

_TYPES: Final[Mapping[Any, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
}


class ParameterArguments:
    """The arguments through which a method of a model receives the parameters of a job."""

    def __init__(self, method: Callable[..., Any]) -> None:
        """Read the method's signature.

        Raises:
            ModelUnfit: A keyword-only argument has no type hint, or a type hint that is not
                supported.
        """
        self.takes_mapping = _MAPPING in _arguments(method)
        self.schemas: Mapping[str, Schema] = read_arguments(method)
        arguments = _arguments(method)
        self._required = [
            name for name in self.schemas if arguments[name].default is inspect.Parameter.empty
        ]

    @property
    def exist(self) -> bool:
        """Whether the model's method has arguments for parameters."""
        return self.takes_mapping or bool(self.schemas)

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """Return the keyword arguments that pass a job's parameters to the model's method.

        If the caller did not send a parameter, its argument is omitted, and the method uses the
        argument's default.

        Raises:
            InvalidInput: The caller did not send a parameter whose argument has no default.
        """
        for name in self._required:
            if name not in parameters:
                raise InvalidInput(f"parameters/{name}: the parameter is required")
        arguments: dict[str, Any] = {
            name: _converted(schema, parameters[name])
            for name, schema in self.schemas.items()
            if name in parameters
        }
        if self.takes_mapping:
            arguments[_MAPPING] = parameters
        return arguments


def read_arguments(method: Callable[..., Any]) -> dict[str, Schema]:
    """Return the schemas of the parameters that a method's keyword-only arguments declare.

    The argument `parameters` is not included.

    Raises:
        ModelUnfit: An argument has no type hint, or a type hint that is not supported.
    """
    found = {
        name: each
        for name, each in _arguments(method).items()
        if each.kind is each.KEYWORD_ONLY and name != _MAPPING
    }
    if not found:
        return {}
    function = method if inspect.isroutine(method) else type(method).__call__
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: _schema(name, hints.get(name), each.default) for name, each in found.items()}


def _arguments(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(method).parameters
    except ValueError:
        # Some built-in callables have no signature.
        return {}


def _schema(name: str, hint: Any, default: Any) -> Schema:
    schema = _schema_of_hint(name, hint)
    if default not in (inspect.Parameter.empty, None):
        schema["default"] = list(default) if isinstance(default, tuple) else default
    return schema


def _schema_of_hint(name: str, hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        schema = _schema_of_hint(name, arguments[0])
        for note in arguments[1:]:
            if isinstance(note, str):
                schema["description"] = note
            elif isinstance(note, Range):
                schema |= note.as_keys()
        return schema
    if origin in (typing.Union, types.UnionType):
        members = [each for each in arguments if each is not type(None)]
        if len(members) == 1:
            return _schema_of_hint(name, members[0])
    if origin is typing.Literal:
        kinds = {_TYPES.get(type(each)) for each in arguments}
        if len(kinds) == 1 and None not in kinds:
            return {"type": kinds.pop(), "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _schema_of_hint(name, arguments[0])}
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    raise ModelUnfit(
        f"the argument {name} has no type hint, or a type hint that is not supported; use bool, "
        "int, float, str, Literal, or list of one of these"
    )


def _converted(schema: Schema, value: Any) -> Any:
    """Return a JSON value as the Python type that the argument's type hint names."""
    if schema["type"] == "number":
        return float(value)
    if schema["type"] == "integer":
        return int(value)
    if schema["type"] == "array" and "items" in schema:
        return [_converted(schema["items"], each) for each in value]
    return value
