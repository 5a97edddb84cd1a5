"""``loosely keys``: make API keys for the callers of a gateway."""

import json
import subprocess
from typing import Annotated

import typer

from loosely.cli.output import JsonOption
from loosely.cli.processes import run_module

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
        str | None,
        typer.Option(
            "--tenant",
            help="The tenant whose jobs the key can create and read. Default: the key's own.",
        ),
    ] = None,
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
    options = ["--tenant", tenant] if tenant is not None else []
    options += ["--scopes", *scopes] if scopes else []
    options += ["--rate", rate] if rate is not None else []
    # On standard error, the module says what to do with the two lines.
    errors = subprocess.DEVNULL if as_json else None
    made = run_module(
        *("gateway.keys", *options, "--", name), stdout=subprocess.PIPE, stderr=errors
    )
    if not as_json:
        typer.echo(made, nl=False)
        return
    key, entry = made.splitlines()
    typer.echo(json.dumps({"key": key, "entry": json.loads(entry)}))
