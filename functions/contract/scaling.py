"""Print the minimum numbers of workers of each model: `python -m contract.scaling`.

The output is a JSON object with one member for each model or version. The command `loosely`
reads this output, because it does not import the package `contract`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contract.catalogue import DEFAULT_PATH, Catalogue, ModelEntry
from contract.errors import ContractError
from contract.warm import parse_period


def describe_scaling(model: ModelEntry) -> dict[str, Any]:
    """Return a JSON object with the model's `min_workers`, `warm_workers` and warm periods."""
    return {
        "min_workers": model.min_workers,
        "warm_workers": model.warm_workers,
        "warm": [asdict(parse_period(text)) for text in model.warm],
    }


def main(arguments: Sequence[str]) -> int:
    """Print the minimum numbers of workers.

    Return the exit status: 0, or 2 if the catalogue is not valid.
    """
    parser = argparse.ArgumentParser(
        prog="python -m contract.scaling",
        description="Print the minimum numbers of workers of each model as JSON.",
    )
    parser.add_argument("catalogue", nargs="?", type=Path, default=DEFAULT_PATH)
    try:
        catalogue = Catalogue.load(parser.parse_args(arguments).catalogue)
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    found = {name: describe_scaling(model) for name, model in catalogue.items()}
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
