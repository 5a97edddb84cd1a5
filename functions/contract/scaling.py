"""Print how many workers each model needs at least: `python -m contract.scaling [CATALOGUE]`.

The output is a JSON object with a member for each entry of the model catalogue. A model with
several versions has an entry for each version, for example `classifier` and `classifier:2`. The
value is the object that `describe_scaling` returns for the entry. The command `loosely` reads this
output, because it does not import the package `contract`.
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
    """Return a JSON object with the model's `min_workers`, `warm_workers` and warm periods.

    At least `min_workers` workers must run at any time, and at least `warm_workers` in the periods
    of the week that the member `warm` lists.
    """
    return {
        "min_workers": model.min_workers,
        "warm_workers": model.warm_workers,
        "warm": [asdict(parse_period(text)) for text in model.warm],
    }


def main(arguments: Sequence[str]) -> int:
    """Print how many workers each model in the catalogue needs at least, as a JSON object.

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
