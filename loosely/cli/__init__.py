"""The ``loosely`` command. Each group of subcommands is in its own module.

The module of a subcommand is imported only when it is used, so that each command starts fast, as do
the components that `loosely up` starts.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from loosely import __version__

#: For each subcommand, its module, and the name of its function or of its group in this module.
_SUBCOMMANDS = {
    "new": ("folder", "new"),
    "up": ("up", "up"),
    "test": ("folder", "test"),
    "package": ("folder", "package"),
    "deploy": ("folder", "deploy"),
    "logs": ("logs", "logs"),
    "open": ("pages", "open_page"),
    "submit": ("jobs", "submit"),
    "status": ("jobs", "status"),
    "result": ("jobs", "result"),
    "cancel": ("jobs", "cancel"),
    "list": ("jobs", "list_jobs"),
    "batch": ("batches", "app"),
    "models": ("models", "app"),
    "dead-letters": ("dead_letters", "app"),
    "tenants": ("tenants", "app"),
    "keys": ("keys", "app"),
}


class _LazyGroup(TyperGroup):
    """A command group that imports the module of a subcommand only when the subcommand is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _SUBCOMMANDS:
            return _import_subcommand(cmd_name)
        # Typer suggests a similar name from this dictionary.
        self.commands.update({name: _import_subcommand(name) for name in _SUBCOMMANDS})
        return None


def _import_subcommand(name: str) -> Any:
    module, attribute = _SUBCOMMANDS[name]
    found = getattr(import_module(f"loosely.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        group = typer.Typer(add_completion=False)
        group.command(name)(found)
        found = group
    command = get_command(found)
    command.name = name
    return command


app = typer.Typer(
    cls=_LazyGroup,
    name="loosely",
    help="Synchronous REST over asynchronous queues for deep-learning inference.",
    epilog=(
        "Exit codes: 0 done, 1 the job or the request failed, 2 wrong usage, "
        "69 the gateway cannot be reached, 75 no result yet, 76 the response is not from Loosely, "
        "98 a port or data directory is in use, 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"loosely {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Synchronous REST over asynchronous queues for deep-learning inference."""
