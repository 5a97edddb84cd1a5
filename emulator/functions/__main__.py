"""Run the Functions host from the command line: `python -m emulator.functions --app FOLDER`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from emulator import program
from emulator.functions.durable.azure_storage.options import (
    DEFAULT_VISIBILITY_TIMEOUT_SECONDS,
    AzureStorageOptions,
    CrashPoint,
    FaultOptions,
    check_crash_point,
)
from emulator.functions.host import Host, HostOptions, lock_data_directory, run_host

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
    options = _parse(sys.argv[1:])
    # The Azure SDK logs a lost connection in many lines. The Service Bus trigger logs it in one.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    return program.run("emulator.functions", options.log_level, lambda: _run(options))


def _run(options: HostOptions) -> None:
    with lock_data_directory(options.data):
        program.run_loop(_serve(options))


async def _serve(options: HostOptions) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # As in Core Tools, the app also receives the environment variables of the host.
    await run_host(Host(options, dict(os.environ)), stopping)


def _parse(arguments: list[str]) -> HostOptions:
    parser = program.options_parser(
        "emulator.functions",
        "Run a Function App folder on this machine.",
        7071,
        "port of the HTTP triggers",
    )
    parser.add_argument("--app", type=Path, required=True, help="the Function App folder")
    parser.add_argument(
        "--rpc-port",
        type=program.port_number,
        default=0,
        help="port of the API for the durable client (default: any free port)",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="Python interpreter of the app process (default: that of the host)",
    )
    _add_engine_options(parser)
    given = parser.parse_args(arguments)
    folder: Path = given.app.resolve()
    if not folder.is_dir():
        parser.error(
            f"--app {given.app} is not a folder: expected the folder that contains function_app.py"
        )
    return HostOptions(
        folder=folder,
        data=given.data.resolve(),
        host=given.host,
        port=given.port,
        rpc_port=given.rpc_port,
        log_level=given.log_level,
        python=given.python,
        limits=program.http_limits(given),
        storage=_storage_options(parser, given),
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
