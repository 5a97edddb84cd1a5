"""`python -m emulator.functions --app FOLDER --port 7071 --data DIR`."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from emulator import program
from emulator.functions.datadir import locked
from emulator.functions.host import Host, HostOptions, run_host


def main() -> int:
    """Run a host until SIGTERM or SIGINT; return its exit status."""
    options = _parse(sys.argv[1:])
    # The SDK's links report every hiccup at length; the trigger says once what matters.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    return program.run("emulator.functions", options.log_level, lambda: _run(options))


def _run(options: HostOptions) -> None:
    with locked(options.data):
        program.run_loop(_serve(options))


async def _serve(options: HostOptions) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # Core Tools overlay local.settings.json with their environment, so this is the app's, too.
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
        help="port of the durable client's API (default: any free)",
    )
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of the app process, if another"
    )
    given = parser.parse_args(arguments)
    folder: Path = given.app.resolve()
    if not folder.is_dir():
        parser.error(f"--app {given.app} is not a folder")
    return HostOptions(
        folder=folder,
        data=given.data.resolve(),
        host=given.host,
        port=given.port,
        rpc_port=given.rpc_port,
        log_level=given.log_level,
        python=given.python,
    )


if __name__ == "__main__":
    sys.exit(main())
