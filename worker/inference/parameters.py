"""The keyword-only arguments of a model's `__call__` or `preprocess`: parameters and named inputs.

    def __call__(
        self,
        image: Image,
        *,
        mask: Image | None = None,
        top: Annotated[int, Range(1, 100), "How many labels."] = 5,
        mode: Literal["fast", "good"] = "good",
    ) -> dict[str, object]: ...

In this example, `mask` is a named input, because an argument of the type `Image` always receives an
input. The arguments `top` and `mode` are parameters.

The gateway does not have the model's code, but must know the arguments. Therefore the model's
catalogue entry repeats the arguments, as `loosely models describe NAME` prints them. If the entry
and the arguments differ, the model is not loaded.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from contract.messages import Json
from contract.parameters import Schema
from worker.errors import InvalidInput, ModelUnfit
from worker.inputs.opened import Accepts
from worker.models import Input, Range

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


# By name, because a worker that serves no torch model does not import numpy.
_INPUT_TYPES: Final[Mapping[str, Accepts]] = {
    "worker.inputs.audio.Audio": "audio",
    "PIL.Image.Image": "image",
    "builtins.bytes": "bytes",
    "numpy.ndarray": "tensor",
}


@dataclass(frozen=True, slots=True)
class InputArgument:
    """A keyword-only argument that is a named input.

    Attributes:
        accepts: The kind of input.
        optional: Whether the argument has a default, so that callers may omit the input.
        description: A sentence for callers; empty if the type hint contains no text.
    """

    accepts: Accepts
    optional: bool
    description: str


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
                raise InvalidInput(f"parameters/{name}: the parameter is missing; send it")
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

    The argument `parameters` and named inputs are not included.

    Raises:
        ModelUnfit: An argument has no type hint, or a type hint that is not supported.
    """
    return {
        name: _schema(name, hint, default)
        for name, (hint, default) in _keyword_arguments(method).items()
        if _accepts(hint) is None
    }


def read_input_arguments(method: Callable[..., Any]) -> dict[str, InputArgument]:
    """Return the named inputs that a method's keyword-only arguments declare.

    Raises:
        ModelUnfit: A type hint contains a name that does not exist at run time.
    """
    return {
        name: InputArgument(accepts, default is not inspect.Parameter.empty, _description(hint))
        for name, (hint, default) in _keyword_arguments(method).items()
        if (accepts := _accepts(hint)) is not None
    }


def _keyword_arguments(method: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keyword-only arguments of a method.

    The keys of the result are the names. The values are pairs of the type hint and the default. The
    type hint is None if the argument has none.
    """
    found = {
        name: each.default
        for name, each in _arguments(method).items()
        if each.kind is each.KEYWORD_ONLY and name != _MAPPING
    }
    if not found:
        return {}
    function = inspect.unwrap(method if inspect.isroutine(method) else type(method).__call__)
    return {name: (_read_hint(function, name), default) for name, default in found.items()}


def _read_hint(function: Any, name: str) -> Any:
    """Return the type hint of an argument, evaluated if it is a text; None if it has none.

    The hints of the other arguments are not evaluated, because their names may exist only for type
    checkers.

    Raises:
        ModelUnfit: The hint contains a name that does not exist at run time.
    """
    hint = function.__annotations__.get(name)
    if hint is None:
        return None
    declaring = types.SimpleNamespace(__annotations__={name: hint})
    namespace = getattr(function, "__globals__", {})
    try:
        return typing.get_type_hints(declaring, namespace, include_extras=True)[name]
    except NameError as error:
        raise ModelUnfit(
            f"the type hint of the argument {name} contains the name {error.name}, which does not "
            "exist at run time; import it outside `if TYPE_CHECKING`"
        ) from None


def _accepts(hint: Any) -> Accepts | None:
    """Return the kind of input that a type hint declares; None if it declares a parameter."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        declared = [each.accepts for each in arguments[1:] if isinstance(each, Input)]
        return declared[0] if declared else _accepts(arguments[0])
    if origin in (typing.Union, types.UnionType):
        members = [each for each in arguments if each is not type(None)]
        return _accepts(members[0]) if len(members) == 1 else None
    kind = origin or hint
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    return _INPUT_TYPES.get(name)


def _description(hint: Any) -> str:
    notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    return next((each for each in notes if isinstance(each, str)), "")


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
    """Convert the value of a job's parameter from JSON to the Python type of the model's argument.

    `schema` describes this type, for example `{"type": "number"}` for a float.
    """
    if schema["type"] == "number":
        return float(value)
    if schema["type"] == "integer":
        return int(value)
    if schema["type"] == "array" and "items" in schema:
        return [_converted(schema["items"], each) for each in value]
    return value
