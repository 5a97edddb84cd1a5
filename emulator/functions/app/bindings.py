"""Which converter belongs to a binding: azure.functions' own, or the generic one of the worker."""

from typing import Any, Protocol

from azure.functions import get_binding_registry
from azure.functions.meta import Datum

GENERIC = "generic"

_registry: Any = get_binding_registry()  # type: ignore[no-untyped-call]  # not annotated there


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
