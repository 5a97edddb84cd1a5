"""`python -m worker.describe NAME`: print a model's parameters, named inputs and results as TOML.

Copy the printed lines into the model's entry in the catalogue. The time limit of a run is printed
to standard error, with its default if the entry has none.

The command imports the model's module, but creates no instance of the model's class and reads no
weights. The setting MODEL_CATALOGUE is the path of the catalogue. The exit code is 1 if the model's
declarations cannot be described, and 2 if NAME or a setting is invalid.
"""

import argparse
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TextIO

from contract import media
from contract.catalogue import Catalogue, ModelEntry, to_toml
from contract.errors import ContractError
from contract.inputs import NamedInput
from contract.parameters import Schema
from contract.results import NamedResult
from worker.errors import ModelFailed, ModelUnfit, SettingsError, WorkerError
from worker.inference.declared_results import ResultDeclaration, read_declared_results
from worker.inference.parameters import InputArgument, read_arguments, read_input_arguments
from worker.inputs.opened import Accepts
from worker.settings import CheckSettings

MEDIA_TYPES: Final[Mapping[Accepts, tuple[str, ...]]] = {
    "audio": ("audio/wav", "audio/x-wav", "audio/vnd.wave"),
    "bytes": (media.OCTET_STREAM,),
    "image": ("image/jpeg", "image/png", "image/webp"),
    "json": (media.JSON,),
    "tensor": ("application/x-npy", media.JSON),
    "text": (media.TEXT,),
}
"""The media types of a named input that the catalogue does not declare yet."""


@dataclass(frozen=True, slots=True)
class ModelDeclarations:
    """The parameters, named inputs and named results that a model's class declares.

    Each attribute is a dictionary. The keys are the names of the parameters, inputs or results. The
    values are the tables that the model's catalogue entry must contain for them.
    """

    parameters: Mapping[str, Schema]
    inputs: Mapping[str, dict[str, Any]]
    results: Mapping[str, dict[str, Any]]


def describe(model: ModelEntry) -> ModelDeclarations:
    """Return the parameters, named inputs and named results that the model's class declares.

    An input or result that the model's entry already declares keeps the media types of the entry.

    Raises:
        ModelUnfit: The module has no class `Infer`, the class has no method `__call__`, an argument
            has no supported type hint, or the type hint of a result contains a name that does not
            exist at run time.
        Exception: Any error that the import of the model's module raises.
    """
    infer: Any = getattr(importlib.import_module(model.implementation), "Infer", None)
    if not isinstance(infer, type):
        raise ModelUnfit(f"{model.implementation}: the module has no class Infer")
    # `infer.__call__` would be the method of `type` that creates an object.
    call = inspect.getattr_static(infer, "__call__", None)
    method: Callable[..., Any] | None = getattr(infer, "preprocess", None) or call
    if method is None:
        raise ModelUnfit(f"{model.implementation}: the class Infer has no method __call__")
    inputs = {
        name: _describe_input(model.inputs.get(name), each)
        for name, each in read_input_arguments(method).items()
    }
    results = {
        name: _describe_result(model.results.get(name), each)
        for name, each in read_declared_results(infer).items()
    }
    return ModelDeclarations(read_arguments(method), inputs, results)


def _describe_input(entry: NamedInput | None, argument: InputArgument) -> dict[str, Any]:
    """Return the catalogue entry of a named input. Keys with a default value are omitted."""
    types = entry.media_types if entry else MEDIA_TYPES[argument.accepts]
    found: dict[str, Any] = {"media_types": list(types)}
    if argument.optional:
        found["optional"] = True
    if argument.description:
        found["description"] = argument.description
    return found


def _describe_result(entry: NamedResult | None, declared: ResultDeclaration) -> dict[str, Any]:
    """Return the catalogue entry of a named result. Keys with a default value are omitted."""
    found: dict[str, Any] = {
        "media_type": entry.media_type if entry else declared.default_media_type
    }
    if declared.optional:
        found["optional"] = True
    if declared.description:
        found["description"] = declared.description
    return found


def main(arguments: list[str], environ: dict[str, str], output: TextIO) -> int:
    """Print the parameters, named inputs and named results of one model, and return the exit code.

    `arguments` contains the model's name.

    Returns:
        0 if the declarations were printed, 1 if they cannot be described, 2 if the model's name or
        a setting is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="python -m worker.describe",
        description="Print a model's parameters, named inputs and named results as TOML.",
    )
    parser.add_argument("name", help="the model's name in the catalogue")
    parsed = parser.parse_args(arguments)
    try:
        settings = CheckSettings.from_env(environ)
        model = Catalogue.load(settings.catalogue).model(parsed.name)
        found = describe(model)
    except (ContractError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except WorkerError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    except (Exception, SystemExit) as error:  # noqa: BLE001  a model's code may raise anything
        traceback.print_exception(error)
        failed = ModelFailed.from_error(parsed.name, error)
        sys.stderr.write(f"{failed.code}: {failed}\n")
        return 1
    if not found.parameters:
        sys.stderr.write(f"{parsed.name} has no parameters\n")
    sys.stderr.write(f"{parsed.name} may run for {model.max_run_seconds} s (max_run_seconds)\n")
    output.writelines(
        f"parameters.{name} = {to_toml(schema)}\n" for name, schema in found.parameters.items()
    )
    output.writelines(f"inputs.{name} = {to_toml(each)}\n" for name, each in found.inputs.items())
    output.writelines(f"results.{name} = {to_toml(each)}\n" for name, each in found.results.items())
    output.flush()
    return 0


if __name__ == "__main__":
    # What the model's code prints goes to standard error, so that it is not mixed with the lines.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1:], dict(os.environ), lines))
