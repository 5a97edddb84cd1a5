"""Loads the folder's `function_app.py` and indexes its functions."""

import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions import FunctionRegister
from azure.functions.decorators.utils import StringifyEnumJsonEncoder

from .validation import FunctionLoadError, Signature, check_signature


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


__all__ = ["FunctionLoadError", "IndexedFunction", "load_functions"]
