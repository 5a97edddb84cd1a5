"""The entry point of the app process. The host runs this file as a script.

The user's code must not be able to import the host's own code. Therefore this script loads its
package under a private name. Before it loads the user's code, it removes the host's folder from
`sys.path`.
"""

import argparse
import asyncio
import gc
import importlib
import importlib.util
import io
import logging
import os
import socket
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

_PACKAGE = "_functions_app"
_HERE = Path(__file__).resolve().parent
_HOST_ROOT = _HERE.parents[2]


def main() -> None:
    """Run the app process until its host ends."""
    # Almost all objects that the imports create stay in memory, so a garbage collection now would
    # only take time. `serve` enables the collector again.
    gc.disable()
    parser = argparse.ArgumentParser(prog="emulator.functions.app")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--host-pipe", type=int, required=True)
    parser.add_argument("--script", default="function_app.py")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    # Flush stdout after each line that the user's code prints, although it is not a terminal.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    for descriptor in (options.socket, options.host_pipe):
        os.set_inheritable(descriptor, False)
    _die_with_host(options.host_pipe)
    _load_own_package()
    serving = importlib.import_module(f"{_PACKAGE}.serving")
    log_lines = importlib.import_module(f"{_PACKAGE}.log_lines")
    _log_to_stderr(options.log_level, log_lines.AppLogFormatter())
    import_path = importlib.import_module(f"{_PACKAGE}.import_path")
    # Without the folder of this script, which is the first entry.
    sys.path[:] = import_path.app_path(options.folder, sys.path[1:], _HOST_ROOT)
    connected = socket.socket(fileno=options.socket)
    serve_options = serving.ServeOptions(
        options.folder, options.script, options.threads, os.environ
    )
    _run(serving.serve(connected, serve_options))
    # Threads of the user's code must not keep the process alive after the host has ended.
    os._exit(0)


def _die_with_host(host_pipe: int) -> None:
    """Start a thread that ends this process at once if the host dies.

    The thread runs even if the user's code blocks the event loop.
    """

    def watch() -> None:
        os.read(host_pipe, 1)
        os._exit(1)

    threading.Thread(target=watch, name="host-pipe", daemon=True).start()


def _load_own_package() -> None:
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, _HERE / "__init__.py", submodule_search_locations=[str(_HERE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = module
    spec.loader.exec_module(module)


def _log_to_stderr(level: str, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Azure's SDK logs each request at level info, which would bury the user's own log lines.
    logging.getLogger("azure").setLevel(max(logging.WARNING, logging.root.level))


def _run(serve: Coroutine[Any, Any, None]) -> None:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        factory = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve)


if __name__ == "__main__":
    main()
