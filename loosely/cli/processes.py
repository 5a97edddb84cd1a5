"""Run modules of Loosely in other processes, and end a command with their exit codes."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from loosely.local.environment import find_root, read_environment, shared_environment
from loosely.local.errors import UpError
from loosely.local.parts import python_command


def run_module(module: str, *arguments: str, **options: Any) -> str:
    """Run a module and return its output if it is piped. Exit with the module's code if not 0."""
    options.setdefault("env", shared_environment(find_root(), read_environment()))
    done = subprocess.run(  # noqa: S603  our own module, without a shell
        python_command(module, *arguments), text=True, check=False, **options
    )
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout or ""


@contextmanager
def exit_on_up_error() -> Iterator[None]:
    """If the ``with`` block raises UpError, print the message and exit with the error's code."""
    try:
        yield
    except UpError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
