"""`python -m worker.describe NAME`: print a model's parameters as TOML for the catalogue.

The command imports the model's module, but creates no instance of the model's class and reads no
weights. The setting MODEL_CATALOGUE is the path of the catalogue. The exit code is 1 if the model's
parameters cannot be described, and 2 if NAME or a setting is invalid.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from contract.catalogue import Catalogue, ModelEntry, to_toml
from contract.errors import ContractError
from contract.parameters import Schema
from worker.errors import ModelFailed, ModelUnfit, SettingsError, WorkerError
from worker.inference.parameters import read_arguments
from worker.settings import CheckSettings


def describe(model: ModelEntry) -> Mapping[str, Schema]:
    """Return the schemas of the parameters that the model's class declares.

    Raises:
        ModelUnfit: The module has no class `Infer`, or an argument has no supported type hint.
        Exception: Any error that the import of the model's module raises.
    """
    infer: Any = getattr(importlib.import_module(model.implementation), "Infer", None)
    if not isinstance(infer, type):
        raise ModelUnfit(f"{model.implementation}: the module has no class Infer")
    method: Callable[..., Any] | None = getattr(infer, "preprocess", None) or vars(infer).get(
        "__call__"
    )
    if method is None:
        raise ModelUnfit(f"{model.implementation}: the class Infer has no method __call__")
    return read_arguments(method)


def main(arguments: list[str], environ: dict[str, str], output: TextIO) -> int:
    """Print the parameters of the model that `arguments` names, and return the exit code.

    Returns:
        0 if the parameters were printed, 1 if they cannot be described, 2 if the model's name or a
        setting is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="python -m worker.describe", description="Print a model's parameters as TOML."
    )
    parser.add_argument("name", help="the model's name in the catalogue")
    parsed = parser.parse_args(arguments)
    try:
        settings = CheckSettings.from_env(environ)
        schemas = describe(Catalogue.load(settings.catalogue).model(parsed.name))
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
    if not schemas:
        sys.stderr.write(f"{parsed.name} has no parameters\n")
    output.writelines(
        f"parameters.{name} = {to_toml(schema)}\n" for name, schema in schemas.items()
    )
    output.flush()
    return 0


if __name__ == "__main__":
    # What the model's code prints goes to standard error, so that it is not mixed with the lines.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1:], dict(os.environ), lines))
