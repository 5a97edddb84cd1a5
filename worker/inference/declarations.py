"""What a model's class declares in its type hints: parameters, named inputs and named results.

    def __call__(self, image: Image, *, mask: Image | None = None, top: int = 5) -> Found: ...

Parameters and named inputs are keyword-only arguments of `__call__` or `preprocess`. Here `mask` is
a named input, because an argument of the type `Image` always receives an input, and `top` is a
parameter. `Found` is a subclass of `Results`, whose members are the named results.

The gateway does not have the model's code, but must know what it declares. Therefore the model's
catalogue entry repeats it, as `loosely models describe NAME` prints it. If the entry and the class
differ, or if a type hint cannot be read (ModelUnfit), the model is not loaded.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from contract import media
from contract.messages import Json
from contract.parameters import Schema
from worker.errors import InvalidInput, ModelUnfit
from worker.inputs.opened import Accepts
from worker.models import Input, Range, Results

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
_PICTURES: Final = ("image/png", "image/jpeg", "image/webp")
_ANY_TYPE: Final = ("*/*",)


@dataclass(frozen=True, slots=True)
class InputArgument:
    """A named input of a model's method. It is optional if its argument has a default."""

    accepts: Accepts
    optional: bool
    description: str


@dataclass(frozen=True, slots=True)
class ResultDeclaration:
    """A named result that a model's class declares. The model may omit it if it is optional.

    The default of the media types is first. `text/*` stands for all types of text, and `*/*` for
    all types except JSON. They are empty if the type hint is `Any`, which allows all types.
    """

    media_types: tuple[str, ...]
    optional: bool
    description: str

    @property
    def default_media_type(self) -> str:
        """The type to propose if the model's catalogue entry does not contain the result."""
        if self.media_types == _ANY_TYPE:
            return media.OCTET_STREAM
        return media.TEXT if "text/*" in self.media_types else (*self.media_types, media.JSON)[0]

    def allows(self, media_type: str) -> bool:
        """Return whether the result may have this media type."""
        if self.media_types == _ANY_TYPE:
            return media_type != media.JSON
        is_text = "text/*" in self.media_types and media_type.startswith("text/")
        return not self.media_types or media_type in self.media_types or is_text


class ParameterArguments:
    """The arguments through which a method of a model receives the parameters of a job."""

    def __init__(self, method: Callable[..., Any]) -> None:
        """Read the method's signature. Raises ModelUnfit if a type hint is not supported."""
        arguments = _arguments(method)
        self._takes_mapping = _MAPPING in arguments
        self._schemas = read_arguments(method)
        self._required = [
            name for name in self._schemas if arguments[name].default is inspect.Parameter.empty
        ]

    @property
    def exist(self) -> bool:
        """Whether the model's method has arguments for parameters."""
        return self._takes_mapping or bool(self._schemas)

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """Return the arguments with a job's parameters, or raise InvalidInput if one is missing."""
        for name in self._required:
            if name not in parameters:
                raise InvalidInput(f"parameters/{name}: the parameter is missing; send it")
        arguments: dict[str, Any] = {
            name: _converted(schema, parameters[name])
            for name, schema in self._schemas.items()
            if name in parameters
        }
        if self._takes_mapping:
            arguments[_MAPPING] = parameters
        return arguments


def read_arguments(method: Callable[..., Any]) -> dict[str, Schema]:
    """Return the schemas of the parameters that a method's keyword-only arguments declare."""
    schemas: dict[str, Schema] = {}
    for name, (hint, default) in _keyword_arguments(method).items():
        if _accepts(hint) is None:
            schemas[name] = schema = _schema_of_hint(name, hint)
            if default not in (inspect.Parameter.empty, None):
                schema["default"] = list(default) if isinstance(default, tuple) else default
    return schemas


def read_input_arguments(method: Callable[..., Any]) -> dict[str, InputArgument]:
    """Return the named inputs that a method's keyword-only arguments declare."""
    return {
        name: InputArgument(
            accepts, default is not inspect.Parameter.empty, _description(_unwrap(hint)[2])
        )
        for name, (hint, default) in _keyword_arguments(method).items()
        if (accepts := _accepts(hint)) is not None
    }


def read_declared_results(infer: Any) -> dict[str, ResultDeclaration]:
    """Return the named results that a model's class or its instance declares, by name."""
    found = returned_results(infer)
    return {} if found is None else read_results_class(found)


def _keyword_arguments(method: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return the type hint, or None, and the default of each keyword-only argument."""
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


def _unwrap(hint: Any) -> tuple[Any, bool, list[Any]]:
    """Return a type hint without `Annotated` and `| None`, whether it had None, and its notes.

    The notes are the further arguments of `Annotated`, the outermost first.
    """
    is_optional, notes = False, list[Any]()
    while (origin := typing.get_origin(hint)) in (typing.Annotated, typing.Union, types.UnionType):
        arguments = typing.get_args(hint)
        if origin is typing.Annotated:
            notes += arguments[1:]
        else:
            arguments = tuple(each for each in arguments if each is not type(None))
            is_optional = is_optional or arguments != typing.get_args(hint)
            if len(arguments) > 1:
                break
        hint = arguments[0]
    return hint, is_optional, notes


def _accepts(hint: Any) -> Accepts | None:
    """Return the kind of input that a type hint declares; None if it declares a parameter."""
    inner, _, notes = _unwrap(hint)
    kind = typing.get_origin(inner) or inner
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    declared = (each.accepts for each in notes if isinstance(each, Input))
    return next(declared, _INPUT_TYPES.get(name))


def _description(notes: list[Any]) -> str:
    return next((each for each in notes if isinstance(each, str)), "")


def _arguments(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(method).parameters
    except ValueError:
        # Some built-in callables have no signature.
        return {}


def _schema_of_hint(name: str, hint: Any) -> dict[str, Any]:
    inner, _, notes = _unwrap(hint)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    kinds = {_TYPES.get(type(each)) for each in arguments}
    schema: dict[str, Any]
    if origin is typing.Literal and len(kinds) == 1 and None not in kinds:
        schema = {"type": kinds.pop(), "enum": list(arguments)}
    elif origin is list:
        schema = {"type": "array", "items": _schema_of_hint(name, arguments[0])}
    elif inner in _TYPES:
        schema = {"type": _TYPES[inner]}
    else:
        raise ModelUnfit(
            f"the argument {name} has no type hint, or a type hint that is not supported; use "
            "bool, int, float, str, Literal, or list of one of these"
        )
    if text := _description(notes):
        schema["description"] = text
    for note in notes:
        if isinstance(note, Range):
            schema |= note.as_keys()
    return schema


def _converted(schema: Schema, value: Any) -> Any:
    """Convert a parameter from JSON to the Python type of the model's argument."""
    if schema["type"] == "number":
        return float(value)
    if schema["type"] == "integer":
        return int(value)
    if schema["type"] == "array" and "items" in schema:
        return [_converted(schema["items"], each) for each in value]
    return value


def returned_results(infer: Any) -> type[Results] | None:
    """Return the subclass of `Results` in the type hint of what the model returns, if any."""
    method = getattr(infer, "postprocess", None)
    if method is None and inspect.isroutine(infer):
        method = infer
    elif method is None:
        method = (infer if isinstance(infer, type) else type(infer)).__call__
    try:
        hint = typing.get_type_hints(method).get("return")
    except NameError as error:
        raise _unknown_name(method, error) from None
    except Exception:  # noqa: BLE001  a hint may name anything, and need not exist at run time
        return None
    if typing.get_origin(hint) in (list, Sequence):
        (hint,) = typing.get_args(hint)  # what a batch model returns for each item
    is_declared = isinstance(hint, type) and issubclass(hint, Results) and hint is not Results
    return hint if is_declared else None


def read_results_class(declaring: type[Results]) -> dict[str, ResultDeclaration]:
    """Return the named results that a subclass of `Results` declares, by name."""
    try:
        hints = typing.get_type_hints(declaring, include_extras=True)
    except NameError as error:
        raise _unknown_name(declaring, error) from None
    names = hints.keys() - {"first", "named"}
    return {name: _read_result_hint(hint) for name, hint in hints.items() if name in names}


def _unknown_name(owner: Any, error: NameError) -> ModelUnfit:
    path = getattr(owner, "__qualname__", repr(owner))
    return ModelUnfit(
        f"{path}: a type hint contains {error.name}, which does not exist when the model is "
        f"loaded; import {error.name} outside `if TYPE_CHECKING`"
    )


def _read_result_hint(hint: Any) -> ResultDeclaration:
    inner, is_optional, notes = _unwrap(hint)
    return ResultDeclaration(_media_types(inner), is_optional, _description(notes))


def _media_types(kind: Any) -> tuple[str, ...]:
    if kind is Any or typing.get_origin(kind) in (typing.Union, types.UnionType):
        return ()
    if kind is Image.Image:
        return _PICTURES
    if kind is bytes:
        return _ANY_TYPE
    return ("text/*", media.JSON) if kind is str else (media.JSON,)
