"""Which converter belongs to a binding: azure.functions' own, or the generic one of the worker.

What the production worker holds for a type: judgements on annotations, as typing 3.6 saw them.

Newer spellings fall through on purpose: `list[int]` and `X | None` are no types to it, so a
function that uses them on a bound parameter does not load in Azure, nor here.

Checks a function's signature against its bindings, as the production worker does at load.

The rules and the texts are those of Microsoft's worker (azure-functions-runtime), so that what
would not load in Azure does not load here, and says the same.

Loads the folder's `function_app.py` and indexes its functions.
"""

import collections.abc
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Union

from azure.functions import FunctionRegister, get_binding_registry
from azure.functions.decorators.utils import StringifyEnumJsonEncoder
from azure.functions.meta import Datum

GENERIC = "generic"
_registry: Any = get_binding_registry()  # type: ignore[no-untyped-call]  # not annotated there
_GenericAlias: Any = type(typing.List[int])  # noqa: UP006 - the class itself is private
_SpecialGenericAlias: Any = type(typing.List)  # noqa: UP006 - as above
_NOT_GENERIC = (Union, tuple, ClassVar, collections.abc.Callable)
_OUT_DIRECTION = 1
_INOUT_DIRECTION = 2
__all__ = ["FunctionLoadError", "IndexedFunction", "load_functions"]


class Converter(Protocol):
    """The class methods of a converter that the worker calls."""

    def has_trigger_support(self) -> bool:
        """Tell whether the trigger's metadata is passed to `decode`."""
        ...

    def check_input_type_annotation(self, pytype: Any) -> bool:
        """Tell whether a parameter may be annotated so."""
        ...

    def check_output_type_annotation(self, pytype: Any) -> bool:
        """Tell whether a returned value may be annotated so."""
        ...

    def decode(self, data: Datum | None, *, trigger_metadata: Any) -> Any:
        """Return the function's argument."""
        ...

    def encode(self, obj: Any, *, expected_type: Any) -> Datum:
        """Return the datum of a returned value."""
        ...


class GenericConverter:
    """Plain text and bytes, for parameters annotated `str` or `bytes` and for unknown bindings."""

    @classmethod
    def has_trigger_support(cls) -> bool:
        """Metadata is not for plain values."""
        return False

    @classmethod
    def check_input_type_annotation(cls, pytype: Any) -> bool:
        """Accept text and bytes."""
        return issubclass(pytype, (str, bytes))

    @classmethod
    def check_output_type_annotation(cls, pytype: Any) -> bool:
        """Accept text and bytes."""
        return issubclass(pytype, (str, bytes, bytearray))

    @classmethod
    def decode(cls, data: Datum | None, *, trigger_metadata: Any) -> Any:
        """Hand the value over as it came."""
        if data is None or data.type is None:
            return None
        if data.type in ("string", "bytes", "json"):
            return data.value
        raise ValueError(
            'unexpected type of data received for the "generic" binding ', repr(data.type)
        )

    @classmethod
    def encode(cls, obj: Any, *, expected_type: Any) -> Datum:
        """Take text, bytes and what JSON has."""
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


def converter_of(binding_type: str) -> Converter:
    """Return the converter registered for a binding type, else the generic one."""
    found: Converter | None = _registry.get(binding_type)
    return GenericConverter if found is None else found


def has_implicit_output(binding_type: str) -> bool:
    """Tell whether what the function returns goes to this binding without `$return`."""
    converter = converter_of(binding_type)
    if converter is GenericConverter:
        return binding_type != "durableClient"
    return bool(getattr(converter, "has_implicit_output", bool)())


def is_generic_type(annotation: Any) -> bool:
    """Tell whether the annotation is a generic of `typing`; Union, Tuple, Callable are none."""
    if isinstance(annotation, type):
        return issubclass(annotation, Generic)
    return (
        isinstance(annotation, (_GenericAlias, _SpecialGenericAlias))
        and annotation.__origin__ not in _NOT_GENERIC
    )


def is_out_type(annotation: Any) -> bool:
    """Tell whether the annotation is azure.functions.Out, subscripted or not."""
    origin = annotation.__origin__ if isinstance(annotation, _GenericAlias) else annotation
    return isinstance(origin, type) and origin.__name__ == "Out"


def out_arguments(annotation: Any) -> tuple[Any, ...]:
    """Return what Out[...] is subscripted with."""
    return typing.get_args(annotation)


class FunctionLoadError(RuntimeError):
    """A function cannot be served; production reports it with this very text."""

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(f"cannot load the {function} function: {reason}")


class Binding(typing.Protocol):
    """What is needed of azure.functions' bindings."""

    name: str
    type: str

    @property
    def direction(self) -> int:
        """0 in, 1 out, 2 both ways."""
        ...

    @property
    def data_type(self) -> int | None:
        """0 undefined, 1 string, 2 binary, 3 stream."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter or a return value: the binding type that converts it and the annotated type."""

    binding_type: str
    python_type: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's validated shape."""

    inputs: dict[str, Slot]
    outputs: dict[str, Slot]
    returned: Slot | None
    requires_context: bool


def check_signature(
    name: str, function: Callable[..., Any], bindings: Iterable[Binding]
) -> Signature:
    """Return the validated shape of a function. Raises FunctionLoadError."""
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
    requires_context = _takes_context(name, parameters, bound, hints)
    _check_names(name, set(parameters), set(bound))
    inputs: dict[str, Slot] = {}
    outputs: dict[str, Slot] = {}
    for parameter in parameters:
        slot = _check_parameter(name, parameter, bound[parameter], hints)
        side = outputs if bound[parameter].direction == _OUT_DIRECTION else inputs
        side[parameter] = slot
    returned = _check_return(name, explicit, implicit, hints)
    return Signature(inputs, outputs, returned, requires_context)


def _check_direction(name: str, binding: Binding) -> None:
    if binding.direction == _INOUT_DIRECTION:
        raise FunctionLoadError(name, '"inout" bindings are not supported')
    if binding.name == "$return" and binding.direction != _OUT_DIRECTION:
        raise FunctionLoadError(name, '"$return" binding must have direction set to "out"')


def _takes_context(
    name: str, parameters: dict[str, Any], bound: dict[str, Binding], hints: dict[str, Any]
) -> bool:
    """Tell whether the invocation's context is wanted, and take that parameter out of the rest."""
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


def _check_parameter(name: str, parameter: str, binding: Binding, hints: dict[str, Any]) -> Slot:
    hint = hints.get(parameter)
    annotated = parameter in hints
    is_out = annotated and is_out_type(hint)
    python_type = _inside_out(name, parameter, hint) if is_out else hint
    if annotated and not isinstance(python_type, type) and not is_generic_type(python_type):
        raise FunctionLoadError(
            name, f"binding {parameter} has invalid non-type annotation {hint!r}"
        )
    _check_out(name, parameter, binding, annotated=annotated, is_out=is_out)
    plain = annotated and python_type in (str, bytes) and not has_implicit_output(binding.type)
    binding_type = GENERIC if plain else binding.type
    if annotated:
        converter = converter_of(binding_type)
        check = (
            converter.check_output_type_annotation
            if is_out
            else converter.check_input_type_annotation
        )
        if not check(python_type):
            raise FunctionLoadError(name, _mismatch(parameter, binding, python_type))
    return Slot(binding_type, python_type)


def _inside_out(name: str, parameter: str, hint: Any) -> Any:
    arguments = out_arguments(hint)
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
    # Production compares the data type with an enumeration's member by identity, so a binding
    # without one (None) takes the first text too.
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


def _check_return(
    name: str, explicit: str | None, implicit: str | None, hints: dict[str, Any]
) -> Slot | None:
    if explicit is None:
        return None if implicit is None else Slot(implicit, hints.get("return"))
    if "return" not in hints:
        return Slot(explicit, None)
    hint = hints["return"]
    if is_generic_type(hint) and is_out_type(hint):
        raise FunctionLoadError(name, "return annotation should not be azure.functions.Out")
    if not isinstance(hint, type):
        raise FunctionLoadError(name, f"has invalid non-type return annotation {hint!r}")
    if not converter_of(explicit).check_output_type_annotation(hint):
        raise FunctionLoadError(
            name,
            f'Python return annotation "{hint.__name__}" does not match binding type "{explicit}"',
        )
    return Slot(explicit, hint)


@dataclass(frozen=True, slots=True)
class IndexedFunction:
    """A function of the app with what the host must know of it."""

    name: str
    call: Callable[..., Any]
    directory: str
    is_async: bool
    signature: Signature
    bindings: list[dict[str, Any]]

    def describe(self) -> dict[str, Any]:
        """Return what is sent to the host: the name and the bindings as function.json has them."""
        return {"name": self.name, "bindings": self.bindings}


def load_functions(folder: Path, script: str) -> dict[str, IndexedFunction]:
    """Import the script of a folder and return its functions by name.

    Raises whatever the user's code raises at import, ValueError for an app that cannot be indexed
    and FunctionLoadError for a function that production would refuse.
    """
    if not (folder / script).is_file():
        raise ValueError(
            f"{script} was not found in {folder}: the host runs apps of the v2 programming model"
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
    functions = [_index(function) for function in apps[0].get_functions()]
    return {function.name: function for function in functions}


def _index(function: Any) -> IndexedFunction:
    name: str = function.get_function_name()
    call = function.get_user_function()
    signature = check_signature(name, call, function.get_bindings())
    bindings = json.loads(json.dumps(function.get_bindings_dict(), cls=StringifyEnumJsonEncoder))
    return IndexedFunction(
        name=name,
        call=call,
        directory=str(Path(inspect.getfile(call)).parent),
        is_async=inspect.iscoroutinefunction(call),
        signature=signature,
        bindings=bindings["bindings"],
    )
