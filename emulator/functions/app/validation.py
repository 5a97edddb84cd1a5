"""Checks a function's signature against its bindings, as the production worker does at load.

The rules and the texts are those of Microsoft's worker (azure-functions-runtime), so that what
would not load in Azure does not load here, and says the same.
"""

import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import annotations as typed
from .bindings import GENERIC, converter_of, has_implicit_output

_OUT_DIRECTION = 1
_INOUT_DIRECTION = 2


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
    is_out = annotated and typed.is_out(hint)
    python_type = _inside_out(name, parameter, hint) if is_out else hint
    if annotated and not isinstance(python_type, type) and not typed.is_generic(python_type):
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
    arguments = typed.out_arguments(hint)
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
    if typed.is_generic(hint) and typed.is_out(hint):
        raise FunctionLoadError(name, "return annotation should not be azure.functions.Out")
    if not isinstance(hint, type):
        raise FunctionLoadError(name, f"has invalid non-type return annotation {hint!r}")
    if not converter_of(explicit).check_output_type_annotation(hint):
        raise FunctionLoadError(
            name,
            f'Python return annotation "{hint.__name__}" does not match binding type "{explicit}"',
        )
    return Slot(explicit, hint)
