"""Print what other programs need from a model catalogue: `python -m contract COMMAND [CATALOGUE]`.

The command `loosely` runs these commands, because it does not import this package.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from contract.catalogue import DEFAULT_PATH, Catalogue, check_workers, format_entry
from contract.errors import ContractError
from contract.queues import config
from contract.warm import parse_period
from contract.weights import list_hub_files


def _print_entry(catalogue: Catalogue, given: argparse.Namespace) -> str:
    return "\n\n".join(map(format_entry, catalogue.matching(given.name))) + "\n"


def _print_queues(catalogue: Catalogue, given: argparse.Namespace) -> str:
    served = [name.strip() for name in given.served.split(",") if name.strip()]
    check_workers(catalogue, served or list(catalogue))
    return f"{json.dumps(config(catalogue), indent=2)}\n"


def _print_host_settings(catalogue: Catalogue, _: argparse.Namespace) -> str:
    values = {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(catalogue.body_limit_bytes)}
    return json.dumps({"IsEncrypted": False, "Values": values}, indent=2) + "\n"


def _print_local(catalogue: Catalogue, given: argparse.Namespace) -> str:
    commands = {"queues": _print_queues, "host-settings": _print_host_settings}
    return f"{json.dumps({name: run(catalogue, given) for name, run in commands.items()})}\n"


def _print_scaling(catalogue: Catalogue, _: argparse.Namespace) -> str:
    found: dict[str, Any] = {
        name: {
            "min_workers": model.min_workers,
            "warm_workers": model.warm_workers,
            "warm": [asdict(parse_period(text)) for text in model.warm],
        }
        for name, model in catalogue.items()
    }
    return f"{json.dumps(found)}\n"


def _print_hub_files(catalogue: Catalogue, _: argparse.Namespace) -> str:
    models = catalogue.values()
    lines = list_hub_files((model.weights, model.weights_sha256) for model in models)
    return "".join(f"{line}\n" for line in lines)


_COMMANDS: Final[Mapping[str, tuple[Callable[[Catalogue, argparse.Namespace], str], str]]] = {
    "entry": (_print_entry, "the entries of a model and of its versions, with all defaults"),
    "queues": (_print_queues, "Config.json of a Service Bus emulator, with all models' queues"),
    "host-settings": (
        _print_host_settings,
        "the app settings of the Functions host, as local.settings.json",
    ),
    "local": (
        _print_local,
        "what `loosely up` needs: a JSON object with the texts of `queues` and `host-settings`",
    ),
    "scaling": (
        _print_scaling,
        "how many workers each model and version needs at least, and in its warm periods, as JSON",
    ),
    "hub-files": (
        _print_hub_files,
        "what a deployment copies from the Hugging Face Hub: digests and paths in the hub's URLs",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run a command. Return 0, or 2 if the catalogue, a name or `--served` is not valid."""
    parser = argparse.ArgumentParser(prog="python -m contract")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=f"print {text}", description=f"Print {text}.")
        command.set_defaults(run=run)
        if name == "entry":
            command.add_argument("name", help="the model's name in the catalogue")
        if name in {"queues", "local"}:
            command.add_argument(
                "--served",
                default="",
                help="the models that the workers serve, separated by commas; fail if neither a "
                "version that gets jobs nor its fallback is among them; by default all models",
            )
        command.add_argument("catalogue", nargs="?", type=Path, default=DEFAULT_PATH)
    given = parser.parse_args(arguments)
    try:
        text = given.run(Catalogue.load(given.catalogue), given)
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
