"""The ``loosely`` command. Each group of subcommands is in its own module."""

from typing import Annotated

import typer

from loosely import __version__
from loosely.cli import capacity, dead_letters, jobs, models, up

app = typer.Typer(
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


app.command("up")(up.up)
app.command("submit")(jobs.submit)
app.command("status")(jobs.status)
app.command("result")(jobs.result)
app.command("cancel")(jobs.cancel)
app.command("list")(jobs.list_jobs)
app.command("scale-model")(capacity.scale_model)
app.command("cost")(capacity.cost)
app.add_typer(models.app, name="models")
app.add_typer(dead_letters.app, name="dead-letters")
