"""Print the app settings of the Functions host that follow from the catalogue.

`python -m contract.host_settings [CATALOGUE]` prints them in the format of local.settings.json.
`loosely up` starts the host with this file.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from contract.catalogue import DEFAULT_PATH, Catalogue
from contract.errors import ContractError

SETTING_BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"


def main(arguments: Sequence[str]) -> int:
    """Print the app settings that follow from a catalogue.

    Return the exit status: 0, or 2 if the catalogue is not valid.
    """
    parser = argparse.ArgumentParser(
        prog="python -m contract.host_settings",
        description="Print the host's app settings that follow from the catalogue.",
    )
    parser.add_argument("catalogue", nargs="?", type=Path, default=DEFAULT_PATH)
    try:
        catalogue = Catalogue.load(parser.parse_args(arguments).catalogue)
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    values = {SETTING_BODY_LIMIT: str(catalogue.body_limit_bytes)}
    sys.stdout.write(json.dumps({"IsEncrypted": False, "Values": values}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
