"""Show an error as one line, ``code: what happened; what to do``, and end with an exit code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum

import typer

from loosely.cli.output import echo_json, printable
from loosely.client.errors import GatewayUnreachable, LooselyError, Problem, UnexpectedAnswer
from loosely.client.requests import LOOPBACK_HOSTS, parse_url


class ExitCode(IntEnum):
    """The exit codes of the commands. The codes 69, 75 and 76 are those of ``sysexits.h``."""

    DONE = 0
    FAILED = 1
    UNREACHABLE = 69
    NOT_YET = 75
    NOT_LOOSELY = 76
    INTERRUPTED = 130


_EXIT_CODES: Mapping[type[LooselyError], ExitCode] = {
    GatewayUnreachable: ExitCode.UNREACHABLE,
    UnexpectedAnswer: ExitCode.NOT_LOOSELY,
}
_ADVICE = {
    "malformed-request": "correct the request",
    "unauthenticated": "pass your API key with --api-key or LOOSELY_API_KEY",
    "forbidden": "use a key with the scope that this request needs",
    "unknown-model": "`loosely models` lists the models",
    "unknown-job": "check the id; finished jobs are deleted after a limited time",
    "unknown-result": "`loosely status` shows the names of the results",
    "unknown-batch": "`loosely batch ls` lists the batches",
    "unknown-dead-letter": "`loosely dead-letters list` lists the dead letters",
    "count-changed": "count again, and repeat the command",
    "payload-too-large": "send a smaller input",
    "unsupported-media-type": "convert the file, or state its media type with --type",
    "invalid-input": "check that the file is complete and has a format that the model accepts",
    "invalid-batch": "correct the lines that are named, and submit the batch again",
    "idempotency-mismatch": "use a new idempotency key for a different request",
    "saturated": "try again later, or use a longer --deadline",
    "overloaded": "try again later",
    "too-many-streams": "close other streams, or try again later",
    "queue-limit": "wait until jobs have ended, or ask the operator for more",
    "gpu-seconds-exhausted": "wait until the next day of UTC, or ask the operator for more",
    "too-many-batches": "wait until old batches are deleted, or put more lines into each batch",
    "inference-failed": "see the worker's log, on this machine with `loosely logs worker`",
    "dead-lettered": "see the worker's log: each attempt failed or killed the worker",
    "expired": "submit the job again with a longer --deadline",
    "no-result": "`loosely status` shows the error",
    "cancelled": "submit the job again if you still need the result",
    "not-found": "check --url",
    "internal-error": "see the gateway's log",
    "unavailable": "try again; no job was made",
}


@contextmanager
def exit_on_error(*, as_json: bool) -> Iterator[None]:
    """Print an error of the client as one line to stderr, and exit with its code.

    As JSON, the gateway's problem document is also printed to stdout, exactly as received.
    """
    try:
        yield
    except LooselyError as error:
        if as_json and isinstance(error, Problem):
            echo_json(error.body)
        typer.echo(format_error(error), err=True)
        raise typer.Exit(_EXIT_CODES.get(type(error), ExitCode.FAILED)) from None


def format_error(error: LooselyError) -> str:
    """Return one line that says what happened and what the user can do."""
    match error:
        case Problem():
            advice = _advice(error)
            text = f"{error.code}: {error.detail.rstrip('.')}" + (f"; {advice}" if advice else "")
        case GatewayUnreachable() | UnexpectedAnswer() if error.idempotency_key is not None:
            text = (
                f"unreachable: {error.reason}; the job may exist: repeat the command with "
                f"--idempotency-key {error.idempotency_key}"
            )
        case GatewayUnreachable():
            what = f"{error.url} cannot be reached: {error.reason}"
            text = f"unreachable: {what}; {_unreachable_advice(error)}"
        case UnexpectedAnswer():
            text = f"unexpected-answer: {error}; check --url"
        case _:
            text = str(error)
    return printable(text)


def _unreachable_advice(error: GatewayUnreachable) -> str:
    if error.is_sent:
        return "try again, and see the gateway's log"
    if parse_url(error.url).host in LOOPBACK_HOSTS:
        return "start the gateway with `loosely up`, or pass another URL with --url"
    return "check --url and the network"


def _advice(problem: Problem) -> str | None:
    document, advice = problem.document, _ADVICE.get(problem.code)
    pointer = str(document.get("pointer", ""))
    if problem.retry_after_seconds is not None:
        advice = f"try again in {problem.retry_after_seconds:.0f} s"
    elif pointer.startswith("/parameters/"):
        advice = parameter_advice(problem.detail)
    elif pointer.startswith("/inputs/") and "needs this input" in problem.detail:
        advice = f"add --input {pointer.removeprefix('/inputs/')}=FILE"
    elif document.get("found") in document.get("accepted", ()):
        advice = f"pass --type {document['found']}"
    elif problem.code == "expired" and document.get("ran") is False:
        advice = "no worker took the job in time: check that one runs, or use a longer --deadline"
    elif "limit_pixels" in document:
        advice = "scale the picture down"
    elif problem.detail.startswith(("input.url", "inputs.", "webhook.url")):
        advice = None  # the detail says what is wrong, and the file may be right
    elif advice is None and problem.retryable:
        advice = "try again"
    return advice


def parameter_advice(detail: str) -> str:
    """Return what to do if a parameter does not match the model's schema, as ``detail`` says."""
    if "expected a string" in detail:
        # The option --param reads 12 as a number.
        return """put a text in quotes: --param 'NAME="12"', or 'NAME=["12"]' in a list"""
    if "expected an array" in detail:
        return "write a list as --param 'NAME=[1, 2]'"
    return "correct --param"
