"""Load `function_app.py`, and check its functions against their bindings as Azure does.

The rules and the error texts are those of the Azure Functions Python worker
(azure-functions-runtime). If Azure refuses a function, this module refuses the function with the
same text. For example, Azure and this module refuse the annotations `list[int]` and `X | None` of a
parameter with a binding, because these annotations are newer than Python 3.6.
"""

import collections.abc
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Union

from azure.functions import FunctionRegister, get_binding_registry
from azure.functions.decorators.utils import StringifyEnumJsonEncoder
from azure.functions.meta import Datum

from .web_extension import WebExtension, find_extension

GENERIC = "generic"
HTTP_TRIGGER = "httpTrigger"
_HTTP_OUTPUT = "http"
_registry: Any = get_binding_registry()  # type: ignore[no-untyped-call]  # not annotated there
_GenericAlias: Any = type(typing.List[int])  # noqa: UP006 - the class itself is private
_SpecialGenericAlias: Any = type(typing.List)  # noqa: UP006 - as above
_NOT_GENERIC = (Union, tuple, ClassVar, collections.abc.Callable)
_OUT_DIRECTION = 1
_INOUT_DIRECTION = 2
__all__ = ["FunctionLoadError", "IndexedFunction", "load_app"]


class Converter(Protocol):
    """The interface of the converter classes of azure.functions.

    Each converter class converts the values of one binding type.
    """

    def has_trigger_support(self) -> bool:
        """Return whether `decode` needs the trigger's metadata."""
        ...

    def check_input_type_annotation(self, pytype: Any) -> bool:
        """Return whether a parameter of this binding type may be annotated with `pytype`."""
        ...

    def check_output_type_annotation(self, pytype: Any) -> bool:
        """Return whether a return value of this binding type may be annotated with `pytype`."""
        ...

    def decode(self, data: Datum | None, *, trigger_metadata: Any) -> Any:
        """Convert the trigger's data to the value of the function's parameter."""
        ...

    def encode(self, obj: Any, *, expected_type: Any) -> Datum:
        """Convert the function's return value to a datum (a value with its data type)."""
        ...


class GenericConverter:
    """The generic converter of the Azure Functions Python worker, for text, bytes and JSON values.

    Binding types without their own converter use this converter.
    """

    @classmethod
    def has_trigger_support(cls) -> bool:
        """Return False, because `decode` does not use trigger metadata."""
        return False

    @classmethod
    def check_input_type_annotation(cls, pytype: Any) -> bool:
        """Return whether the annotation is `str` or `bytes`."""
        return issubclass(pytype, (str, bytes))

    @classmethod
    def check_output_type_annotation(cls, pytype: Any) -> bool:
        """Return whether the annotation is `str`, `bytes` or `bytearray`."""
        return issubclass(pytype, (str, bytes, bytearray))

    @classmethod
    def decode(cls, data: Datum | None, *, trigger_metadata: Any) -> Any:
        """Return the datum's value, or None. Raises ValueError for an unknown type."""
        if data is None or data.type is None:
            return None
        if data.type in ("string", "bytes", "json"):
            return data.value
        raise ValueError(
            'unexpected type of data received for the "generic" binding ', repr(data.type)
        )

    @classmethod
    def encode(cls, obj: Any, *, expected_type: Any) -> Datum:
        """Convert text, bytes or a JSON value to a datum. Raises NotImplementedError."""
        kinds = {str: "string", dict: "dict", list: "list", bool: "int", int: "int"}
        if obj is None:
            return Datum(type=None, value=None)
        if isinstance(obj, (bytes, bytearray)):
            return Datum(type="bytes", value=bytes(obj))
        if isinstance(obj, float):
            return Datum(type="double", value=obj)
        for kind, name in kinds.items():
            if isinstance(obj, kind):
                return Datum(type=name, value=obj)
        raise NotImplementedError


def find_converter(binding_type: str) -> Converter:
    """Return the converter of a binding type, or the generic converter if the type is unknown."""
    found: Converter | None = _registry.get(binding_type)
    return GenericConverter if found is None else found


def has_implicit_output(binding_type: str) -> bool:
    """Return whether a binding of this type gets the return value without `$return`."""
    converter = find_converter(binding_type)
    if converter is GenericConverter:
        return binding_type != "durableClient"
    return bool(getattr(converter, "has_implicit_output", bool)())


def is_generic(annotation: Any) -> bool:
    """Return whether an annotation is generic, but not Union, Tuple, ClassVar or Callable."""
    if isinstance(annotation, type):
        return issubclass(annotation, Generic)
    return (
        isinstance(annotation, (_GenericAlias, _SpecialGenericAlias))
        and annotation.__origin__ not in _NOT_GENERIC
    )


def is_out_annotation(annotation: Any) -> bool:
    """Return whether the annotation is azure.functions.Out, with or without a type argument."""
    origin = annotation.__origin__ if isinstance(annotation, _GenericAlias) else annotation
    return isinstance(origin, type) and origin.__name__ == "Out"


def read_out_arguments(annotation: Any) -> tuple[Any, ...]:
    """Return the type arguments of an `Out[...]` annotation."""
    return typing.get_args(annotation)


class FunctionLoadError(RuntimeError):
    """A function cannot be loaded. The error text is the same as in Azure."""

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(f"cannot load the {function} function: {reason}")


class Binding(typing.Protocol):
    """The attributes of an azure.functions binding that this module uses."""

    name: str
    type: str

    @property
    def direction(self) -> int:
        """Return the direction of the binding: 0 is in, 1 is out, 2 is inout."""
        ...

    @property
    def data_type(self) -> int | None:
        """Return the data type: 0 is undefined, 1 is string, 2 is binary, 3 is stream."""
        ...


@dataclass(frozen=True, slots=True)
class BoundValue:
    """A parameter or return value that has a binding.

    `binding_type` is the type of the binding. `python_type` is the type in the annotation.
    """

    binding_type: str
    python_type: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters and the return value of a function, which match the function's bindings.

    `inputs` and `outputs` map the names of parameters to their types. `returned` is None if the
    function does not have an output binding for its return value. `requires_context` is true if
    the function has a `context` parameter that does not have a binding.
    """

    inputs: dict[str, BoundValue]
    outputs: dict[str, BoundValue]
    returned: BoundValue | None
    requires_context: bool


def check_signature(
    name: str,
    function: Callable[..., Any],
    bindings: Iterable[Binding],
    extension: WebExtension | None = None,
) -> Signature:
    """Check that a function matches its bindings. Raises FunctionLoadError as Azure.

    If the app has a web extension, HTTP triggers have the extension's types.
    """
    parameters = dict(inspect.signature(function).parameters)
    hints = typing.get_type_hints(function)
    bound: dict[str, Binding] = {}
    explicit: str | None = None
    implicit: str | None = None
    for binding in bindings:
        _check_direction(name, binding)
        if binding.name == "$return":
            explicit = explicit or binding.type
            continue
        bound[binding.name] = binding
        if has_implicit_output(binding.type):
            implicit = binding.type
    requires_context = _remove_context(name, parameters, bound, hints)
    _check_names(name, set(parameters), set(bound))
    inputs: dict[str, BoundValue] = {}
    outputs: dict[str, BoundValue] = {}
    for parameter in parameters:
        slot = _check_parameter(name, parameter, bound[parameter], hints, extension)
        side = outputs if bound[parameter].direction == _OUT_DIRECTION else inputs
        side[parameter] = slot
    returned = _check_return(name, explicit, implicit, hints, extension)
    return Signature(inputs, outputs, returned, requires_context)


def _check_direction(name: str, binding: Binding) -> None:
    if binding.direction == _INOUT_DIRECTION:
        raise FunctionLoadError(name, '"inout" bindings are not supported')
    if binding.name == "$return" and binding.direction != _OUT_DIRECTION:
        raise FunctionLoadError(name, '"$return" binding must have direction set to "out"')


def _remove_context(
    name: str, parameters: dict[str, Any], bound: dict[str, Binding], hints: dict[str, Any]
) -> bool:
    """Remove a `context` parameter without a binding; return whether there was one."""
    if "context" not in parameters or "context" in bound:
        return False
    del parameters["context"]
    hint = hints.get("context")
    if "context" in hints and not (isinstance(hint, type) and hint.__name__ == "Context"):
        raise FunctionLoadError(
            name,
            'the "context" parameter is expected to be of type azure.functions.Context, '
            f'got "{hint!r}"',
        )
    return True


def _check_names(name: str, parameters: set[str], bound: set[str]) -> None:
    if unbound := parameters - bound:
        raise FunctionLoadError(
            name,
            "the following parameters are declared in Python but not in the function definition "
            f"(function.json or function decorators):  {unbound!r}",
        )
    if extra := bound - parameters:
        raise FunctionLoadError(
            name,
            "Extra parameters in binding definition — the following parameters are declared as "
            f"bindings but are not present in Python: {extra!r}",
        )


def _check_parameter(
    name: str,
    parameter: str,
    binding: Binding,
    hints: dict[str, Any],
    extension: WebExtension | None,
) -> BoundValue:
    hint = hints.get(parameter)
    annotated = parameter in hints
    is_out = annotated and is_out_annotation(hint)
    python_type = _inside_out(name, parameter, hint) if is_out else hint
    if annotated and not isinstance(python_type, type) and not is_generic(python_type):
        raise FunctionLoadError(
            name, f"binding {parameter} has invalid non-type annotation {hint!r}"
        )
    _check_out(name, parameter, binding, annotated=annotated, is_out=is_out)
    plain = annotated and python_type in (str, bytes) and not has_implicit_output(binding.type)
    binding_type = GENERIC if plain else binding.type
    if annotated and extension is not None and binding_type == HTTP_TRIGGER:
        if not extension.accepts_request(python_type):
            raise FunctionLoadError(name, _extension_mismatch(parameter, binding, python_type))
    elif annotated:
        converter = find_converter(binding_type)
        check = (
            converter.check_output_type_annotation
            if is_out
            else converter.check_input_type_annotation
        )
        if not check(python_type):
            raise FunctionLoadError(name, _mismatch(parameter, binding, python_type))
    return BoundValue(binding_type, python_type)


def _inside_out(name: str, parameter: str, hint: Any) -> Any:
    arguments = read_out_arguments(hint)
    if len(arguments) != 1:
        raise FunctionLoadError(name, f"binding {parameter} has invalid Out annotation {hint!r}")
    return arguments[0]


def _check_out(
    name: str, parameter: str, binding: Binding, *, annotated: bool, is_out: bool
) -> None:
    is_output = binding.direction == _OUT_DIRECTION
    if is_output and annotated and not is_out:
        raise FunctionLoadError(
            name,
            f'binding {parameter} is declared to have the "out" direction, but its annotation in '
            "Python is not a subclass of azure.functions.Out",
        )
    if not is_output and is_out:
        raise FunctionLoadError(
            name,
            f'binding {parameter} is declared to have the "in" direction in the binding '
            "decorator, but its annotation is azure.functions.Out in Python",
        )


def _mismatch(parameter: str, binding: Binding, python_type: Any) -> str:
    # Microsoft's worker compares the data type with a member of an enumeration by identity, so a
    # binding without a data type (None) gets the first text, too.
    if binding.data_type != 0:
        return (
            f'binding type "{parameter!r}" and dataType "{binding.type}" in the binding decorator '
            "do not match the corresponding function parameter's Python type annotation "
            f"{python_type.__name__}"
        )
    return (
        f'type of {parameter} binding in the binding decorator "{binding.type}" does not match '
        f'its Python annotation "{python_type.__name__}"'
    )


def _extension_mismatch(parameter: str, binding: Binding, python_type: Any) -> str:
    """Return the text of version 4.34 of the worker, which still speaks of function.json."""
    return (
        f'{parameter!r} binding type "{binding.type}" and dataType "{binding.data_type}" in '
        "function.json do not match the corresponding function parameter's Python type annotation "
        f'"{python_type.__name__}"'
    )


def _check_return(
    name: str,
    explicit: str | None,
    implicit: str | None,
    hints: dict[str, Any],
    extension: WebExtension | None,
) -> BoundValue | None:
    if explicit is None:
        return None if implicit is None else BoundValue(implicit, hints.get("return"))
    if "return" not in hints:
        return BoundValue(explicit, None)
    hint = hints["return"]
    if is_generic(hint) and is_out_annotation(hint):
        raise FunctionLoadError(name, "return annotation should not be azure.functions.Out")
    if not isinstance(hint, type):
        raise FunctionLoadError(name, f"has invalid non-type return annotation {hint!r}")
    if extension is not None and explicit == _HTTP_OUTPUT:
        accepts = extension.accepts_response(hint)
    else:
        accepts = find_converter(explicit).check_output_type_annotation(hint)
    if not accepts:
        raise FunctionLoadError(
            name,
            f'Python return annotation "{hint.__name__}" does not match binding type "{explicit}"',
        )
    return BoundValue(explicit, hint)


@dataclass(frozen=True, slots=True)
class IndexedFunction:
    """A function of the app, its bindings and its checked signature."""

    name: str
    call: Callable[..., Any]
    directory: str
    is_async: bool
    signature: Signature
    bindings: list[dict[str, Any]]

    def describe(self) -> dict[str, Any]:
        """Return the function's name, and its bindings in the format of function.json."""
        return {"name": self.name, "bindings": self.bindings}


def load_app(
    folder: Path, script: str, settings: Mapping[str, str]
) -> tuple[dict[str, IndexedFunction], WebExtension | None]:
    """Import the main module of an app; return its functions by name, and its web extension.

    Raises ValueError if the module is missing or does not define one supported app,
    FunctionLoadError if Azure would refuse a function, and what the user's code raises.
    """
    if not (folder / script).is_file():
        raise ValueError(
            f"{script} was not found in {folder}: apps of the v2 programming model need this file"
        )
    module = importlib.import_module(Path(script).stem)
    apps = [value for value in vars(module).values() if isinstance(value, FunctionRegister)]
    if len(apps) > 1:
        kind = type(apps[0]).__name__
        raise ValueError(
            f"More than one {kind} or other top level function app instances are defined."
        )
    if not apps:
        raise ValueError(f"Could not find top level function app instances in {script}.")
    extension = find_extension(settings)
    functions = [_index(function, extension) for function in apps[0].get_functions()]
    _check_durable_sdk(functions)
    return {function.name: function for function in functions}, extension


def _check_durable_sdk(functions: Iterable[IndexedFunction]) -> None:
    """Raise ValueError if the app uses the durable SDK 2, which needs gRPC."""
    kinds = {binding["type"] for function in functions for binding in function.bindings}
    if not kinds & {"orchestrationTrigger", "activityTrigger", "durableClient"}:
        return
    try:
        version = metadata.version("azure-functions-durable")
    except metadata.PackageNotFoundError:
        return
    if version.split(".")[0] not in {"0", "1"}:
        raise ValueError(
            f"The app uses azure-functions-durable {version}, whose gRPC protocol this host does "
            "not support: install azure-functions-durable<2."
        )


def _index(function: Any, extension: WebExtension | None) -> IndexedFunction:
    name: str = function.get_function_name()
    call = function.get_user_function()
    signature = check_signature(name, call, function.get_bindings(), extension)
    bindings = json.loads(json.dumps(function.get_bindings_dict(), cls=StringifyEnumJsonEncoder))
    return IndexedFunction(
        name=name,
        call=call,
        directory=str(Path(inspect.getfile(call)).parent),
        is_async=inspect.iscoroutinefunction(call),
        signature=signature,
        bindings=bindings["bindings"],
    )
