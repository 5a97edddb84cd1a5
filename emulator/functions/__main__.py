"""`python -m emulator.functions --app FOLDER --port 7071 --data DIR`."""

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from emulator.functions.datadir import locked
from emulator.functions.errors import HostError
from emulator.functions.host import Host, HostOptions, run_host

_LEVELS = ("debug", "info", "warning", "error")


def main() -> int:
    """Run a host until SIGTERM or SIGINT; return the exit status that errors.py lists."""
    options = _parse(sys.argv[1:])
    logging.basicConfig(
        level=options.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s [%(name)s] %(message)s",
    )
    # The SDK's links report every hiccup at length; the trigger says once what matters.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        with locked(options.data), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options))
    except HostError as error:
        print(f"emulator.functions: {error}", file=sys.stderr)  # noqa: T201 - the last word to who started it
        return error.exit_code
    return 0


async def _serve(options: HostOptions) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # Core Tools overlay local.settings.json with their environment, so this is the app's, too.
    await run_host(Host(options, dict(os.environ)), stopping)


def _parse(arguments: list[str]) -> HostOptions:
    parser = argparse.ArgumentParser(
        prog="python -m emulator.functions",
        description="Run a Function App folder on this machine.",
    )
    parser.add_argument("--app", type=Path, required=True, help="the Function App folder")
    parser.add_argument("--data", type=Path, required=True, help="where state is kept")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=_port, default=7071, help="port of the HTTP triggers")
    parser.add_argument(
        "--rpc-port", type=_port, default=0, help="port of the durable client's API (0: any free)"
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info")
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


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return port


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
