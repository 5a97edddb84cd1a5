"""Run the Functions host from the command line: `python -m emulator.functions --app FOLDER`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from emulator import program
from emulator.functions.console import ColourFormatter, wants_colour
from emulator.functions.durable.azure_storage.options import (
    DEFAULT_VISIBILITY_TIMEOUT_SECONDS,
    AzureStorageOptions,
    CrashPoint,
    FaultOptions,
    check_crash_point,
)
from emulator.functions.host import Host, lock_data_directory, run_host
from emulator.functions.options import HostOptions
from emulator.functions.settings import read_local_host_options, split_origins
from emulator.functions.shared_log import share_log
from emulator.functions.watch import AppFileWatch

_DEFAULT_PORT = 7071
_EXIT_SECONDS = 2.0
# With a shorter timeout, a live host might not renew its messages before they become visible.
_SHORTEST_TIMEOUT_SECONDS = 0.5
_LONGEST_TIMEOUT_SECONDS = 7 * 24 * 3600.0
_LONGEST_DELAY_MS = 1000.0
_AZURE_STORAGE_ONLY = (
    "task_hub",
    "visibility_timeout",
    "crash_at",
    "crash_rate",
    "split_brain_rate",
    "seed",
    "storage_delay",
)


def main() -> int:
    """Run a host until the process receives SIGTERM or SIGINT, and return the exit status."""
    # For tests that start the host through another program.
    arguments = [*os.environ.get("LOCAL_FUNCTIONS_OPTIONS", "").split(), *sys.argv[1:]]
    given = _parse(arguments, has_colour=wants_colour(sys.stderr, os.environ))
    options = given.host
    # The Azure SDK logs a lost connection in many lines. The Service Bus trigger logs it in one.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    formatter = ColourFormatter() if options.has_colour else None

    def run_host_program() -> None:
        if not options.is_isolated:
            share_log(given.log_level, options.log_level)
        with lock_data_directory(options.data):
            program.run_loop(_serve(options))

    status = program.run("emulator.functions", given.log_level, run_host_program, formatter)
    if not options.is_isolated:
        # Threads of the app may still run.
        sys.stdout.flush()
        os._exit(status)
    return status


async def _serve(options: HostOptions) -> None:
    try:
        await _run_host(options)
    finally:
        if not options.is_isolated:
            # The event loop waits for its threads before it closes.
            status = 0 if sys.exception() is None else 1
            timer = threading.Timer(_EXIT_SECONDS, os._exit, (status,))
            timer.daemon = True
            timer.start()


async def _run_host(options: HostOptions) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    replacing = asyncio.Event()
    if not options.is_reloading:
        loop.add_signal_handler(signal.SIGHUP, replacing.set)
    watch = AppFileWatch(options.folder) if options.is_reloading else None
    # As in Core Tools, the app also receives the environment variables of the host.
    await run_host(Host(options, dict(os.environ)), stopping, watch, replacing)


@dataclass(frozen=True, slots=True)
class _GivenOptions:
    """The options that were given on the command line.

    `log_level` is the lowest level of the host's own log lines.
    """

    host: HostOptions
    log_level: str


def _parse(arguments: list[str], *, has_colour: bool) -> _GivenOptions:
    parser = program.options_parser(
        "emulator.functions",
        "Run a Function App folder on this machine.",
        _DEFAULT_PORT,
        "port of the HTTP triggers, or LocalHttpPort of local.settings.json",
        ("--port", "-p"),
    )
    parser.set_defaults(port=None)
    parser.add_argument(
        "--app",
        type=Path,
        default=Path(),
        help="the Function App folder (default: the current folder)",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="app settings in the format of local.settings.json, which take precedence over those "
        "in the app's folder",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="Python interpreter of the app, which implies --isolated (default: that of the host)",
    )
    parser.add_argument(
        "--isolated",
        action="store_true",
        help="run the app in a process of its own: for apps that crash or block their process, or "
        "that are not trusted",
    )
    _add_core_tools_options(parser)
    _add_own_options(parser)
    _add_engine_options(parser)
    given = _parse_known(parser, arguments)
    folder: Path = given.app.resolve()
    if not folder.is_dir():
        parser.error(
            f"--app {given.app} is not a folder: expected the folder that contains function_app.py"
        )
    try:
        defaults = read_local_host_options(folder)
    except program.SettingError as error:
        parser.error(str(error))
    options = HostOptions(
        folder=folder,
        data=given.data.resolve(),
        settings_file=None if given.settings is None else given.settings.resolve(),
        host=given.host,
        port=defaults.port or _DEFAULT_PORT if given.port is None else given.port,
        log_level=given.log_level,
        python=given.python,
        is_isolated=given.isolated or given.python != sys.executable,
        limits=program.http_limits(given),
        storage=_storage_options(parser, given),
        functions=tuple(given.functions),
        cors_origins=defaults.cors_origins if given.cors is None else split_origins(given.cors),
        is_reloading=given.reload,
        logs_invocations=given.request_log,
        has_colour=has_colour,
    )
    return _GivenOptions(options, "debug" if given.verbose else given.log_level)


def _parse_known(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments; exit with 2 and a list of all options if one is unknown."""
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        names = sorted(
            name
            for action in parser._actions  # argparse has no public list
            for name in action.option_strings
            if name.startswith("--")
        )
        # The value of an option may be a secret, such as that of --password.
        option = unknown[0].partition("=")[0]
        parser.error(f"{option} is not an option of this host: use one of {', '.join(names)}")
    return given


def _add_core_tools_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("as in Azure Functions Core Tools")
    group.add_argument(
        "--functions",
        nargs="+",
        default=(),
        metavar="NAME",
        help="load only the functions with these names",
    )
    group.add_argument(
        "--verbose", action="store_true", help="log the host's messages of the level debug, too"
    )
    group.add_argument(
        "--cors",
        metavar="ORIGINS",
        help="origins whose pages may use the functions, separated by commas; * means all "
        "(default: Host.CORS of local.settings.json)",
    )


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-reload",
        dest="reload",
        action="store_false",
        help="do not load the app again when one of its files changes, but when the host receives "
        "SIGHUP; requests in flight then end in the current app",
    )
    parser.add_argument(
        "--no-request-log",
        dest="request_log",
        action="store_false",
        help="do not log the start and the end of each invocation",
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=["local", "azure-storage"],
        default="local",
        help="durable engine: `local` commits each episode in one transaction, `azure-storage` "
        "follows the steps of the Azure Storage provider (default: local)",
    )
    group = parser.add_argument_group("with --engine azure-storage")
    group.add_argument(
        "--task-hub",
        type=Path,
        metavar="FILE",
        help="SQLite file of the task hub; several hosts may share it (default: DATA/task-hub.db)",
    )
    group.add_argument(
        "--visibility-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long the messages that a dead host has dequeued stay invisible (default: 60)",
    )
    group.add_argument(
        "--crash-at",
        type=_crash_point,
        action="append",
        metavar="POINT[:NAME]",
        help=f"kill the host once at a crash point: {', '.join(CrashPoint)}; NAME selects one "
        "orchestrator, activity or event; may be given several times",
    )
    group.add_argument(
        "--crash-rate", type=_rate, metavar="P", help="probability that an episode ends in a crash"
    )
    group.add_argument(
        "--split-brain-rate",
        type=_rate,
        metavar="P",
        help="probability that a second owner of the partition also runs an episode",
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of the random faults")
    group.add_argument(
        "--storage-delay",
        type=_delay_ms,
        metavar="MS",
        help="how much longer each transaction takes, to emulate a remote store (default: 0)",
    )


def _storage_options(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> AzureStorageOptions | None:
    if given.engine == "local":
        for name in _AZURE_STORAGE_ONLY:
            if getattr(given, name) is not None:
                option = name.replace("_", "-")
                parser.error(f"--{option} needs --engine azure-storage")
        return None
    task_hub: Path = given.task_hub or given.data / "task-hub.db"
    return AzureStorageOptions(
        task_hub.resolve(),
        given.visibility_timeout or DEFAULT_VISIBILITY_TIMEOUT_SECONDS,
        FaultOptions(
            tuple(given.crash_at or ()),
            given.crash_rate or 0.0,
            given.split_brain_rate or 0.0,
            given.seed,
        ),
        (given.storage_delay or 0.0) / 1000,
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not _SHORTEST_TIMEOUT_SECONDS <= seconds <= _LONGEST_TIMEOUT_SECONDS:
        raise argparse.ArgumentTypeError(
            f"expected a number of seconds from {_SHORTEST_TIMEOUT_SECONDS} to "
            f"{_LONGEST_TIMEOUT_SECONDS}, got {text}"
        )
    return seconds


def _delay_ms(text: str) -> float:
    delay_ms = float(text)
    if not 0 <= delay_ms <= _LONGEST_DELAY_MS:
        raise argparse.ArgumentTypeError(
            f"expected a number of milliseconds from 0 to {_LONGEST_DELAY_MS:g}, got {text}"
        )
    return delay_ms


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 <= rate <= 1:
        raise argparse.ArgumentTypeError(f"expected a probability from 0 to 1, got {text}")
    return rate


def _crash_point(text: str) -> str:
    try:
        return check_crash_point(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
