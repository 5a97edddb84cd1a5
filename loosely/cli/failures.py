"""How commands say what went wrong: ``code: what happened; what to do``."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from loosely.cli.text import printable
from loosely.errors import GatewayUnreachable, LooselyError, Problem, UnexpectedAnswer


class ExitCode(IntEnum):
    """What the commands end with; the values over 64 are those of ``sysexits.h``."""

    DONE = 0
    FAILED = 1
    UNREACHABLE = 69
    NOT_YET = 75
    NOT_LOOSELY = 76
    INTERRUPTED = 130


_ADVICE = {
    "malformed-request": "correct the request",
    "unauthenticated": "name your key with --api-key or LOOSELY_API_KEY",
    "forbidden": "use a key that may do this",
    "unknown-model": "`loosely models` lists them",
    "unknown-job": "check the id; finished jobs are kept for a limited time",
    "payload-too-large": "send less, or use an upload",
    "unsupported-media-type": "convert the file, or name its type with --type",
    "invalid-input": "check that the file is whole and is what the model takes",
    "idempotency-mismatch": "use a new key for another request",
    "saturated": "try again later, or with a longer --deadline",
    "inference-failed": "see the worker's log",
    "dead-lettered": "see the worker's log: it died or gave up on this job repeatedly",
    "expired": "submit it again, with a longer --deadline",
    "no-result": "`loosely status` tells why",
    "cancelled": "submit it again if it is still wanted",
    "not-found": "check --url",
    "internal-error": "see the gateway's log",
    "unavailable": "try again; nothing was accepted",
}


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Turn this package's errors into a line on stderr and an exit code.

    With ``as_json`` the problem document goes to stdout as it was received.
    """
    try:
        yield
    except LooselyError as error:
        if as_json and isinstance(error, Problem):
            typer.echo(error.body)
        typer.echo(line_for(error), err=True)
        raise typer.Exit(_exit_code(error)) from None


def line_for(error: LooselyError) -> str:
    """Say what happened and what to do, in one line."""
    match error:
        case Problem():
            advice = _advice(error)
            text = f"{error.code}: {error.detail.rstrip('.')}" + (f"; {advice}" if advice else "")
        case GatewayUnreachable():
            text = f"unreachable: {error}; start it with `loosely up`, or name another with --url"
        case UnexpectedAnswer():
            text = f"unexpected-answer: {error}; check --url"
        case _:
            text = str(error)
    return printable(text)


def _advice(problem: Problem) -> str | None:
    if problem.retry_after_seconds is not None:
        return f"try again in {problem.retry_after_seconds:.0f} s"
    advice = _ADVICE.get(problem.code)
    if advice is None and problem.retryable:
        return "try again"
    return advice


def _exit_code(error: LooselyError) -> ExitCode:
    match error:
        case GatewayUnreachable():
            return ExitCode.UNREACHABLE
        case UnexpectedAnswer():
            return ExitCode.NOT_LOOSELY
        case _:
            return ExitCode.FAILED
