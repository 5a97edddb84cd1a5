"""``loosely keys``: make API keys for the callers of a gateway."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from loosely.cli.output import JsonOption
from loosely.local.environment import find_root, read_environment, shared_environment
from loosely.local.parts import python_command

app = typer.Typer(
    help="Make API keys for the callers of a gateway.", add_completion=False, no_args_is_help=True
)


@app.callback()
def _keys() -> None:
    """Make API keys for the callers of a gateway."""


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The unique name of the key.")],
    tenant: Annotated[
        str, typer.Option("--tenant", help="The tenant whose jobs the key can create and read.")
    ],
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="jobs:read, jobs:write, ops:read or admin. May be repeated. Default: jobs:read "
            "and jobs:write.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="N/SECONDS", help="At most N requests in SECONDS."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key. Print the key, and its entry for the list in the setting API_KEYS.

    The key is shown only once. The entry contains a hash of it.
    """
    options = ["--tenant", tenant]
    options += ["--scopes", *scopes] if scopes else []
    options += ["--rate", rate] if rate is not None else []
    made = subprocess.run(  # noqa: S603  our own module, without a shell
        python_command("gateway.keys", *options, "--", name),
        env=shared_environment(find_root(), read_environment()),
        stdout=subprocess.PIPE,
        # The module says what to do with the two lines.
        stderr=subprocess.DEVNULL if as_json else None,
        text=True,
        check=False,
    )
    if made.returncode:
        sys.exit(made.returncode)
    if not as_json:
        typer.echo(made.stdout, nl=False)
        return
    key, entry = made.stdout.splitlines()
    typer.echo(json.dumps({"key": key, "entry": json.loads(entry)}))
