"""Run the command line in the test's own process."""

from collections.abc import Callable

from typer.testing import CliRunner, Result

from loosely.cli import app

Run = Callable[..., Result]
#: The environment variables that change what a command prints or where it sends requests.
VARIABLES = ("LOOSELY_URL", "LOOSELY_API_KEY", "FORCE_COLOR", "COLUMNS")


def run_command(*arguments: str, exit_code: int = 0, **options: object) -> Result:
    """Run `loosely`, which must end with `exit_code`. `options` are those of `CliRunner.invoke`."""
    done = CliRunner().invoke(app, arguments, **options)  # type: ignore[arg-type]
    assert done.exit_code == exit_code, done.output
    return done
