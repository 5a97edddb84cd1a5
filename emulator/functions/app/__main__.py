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
from contextvars import ContextVar
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
    invocation = importlib.import_module(f"{_PACKAGE}.invocation")
    _log_to_stderr(options.log_level, invocation.running_function)
    _set_import_path(options.folder)
    connected = socket.socket(fileno=options.socket)
    serve_options = serving.ServeOptions(options.folder, options.script, options.threads)
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


def _set_import_path(folder: Path) -> None:
    """Put the app's folder, then its `.python_packages`, first in `sys.path`."""
    kept = [entry for entry in sys.path[1:] if entry and not _is_hosts_own(Path(entry))]
    installed = folder / ".python_packages" / "lib" / "site-packages"
    sys.path[:] = [str(folder), *([str(installed)] if installed.is_dir() else []), *kept]


def _is_hosts_own(entry: Path) -> bool:
    inside = entry.resolve().is_relative_to(_HOST_ROOT)
    return inside and not {"site-packages", "dist-packages"} & set(entry.parts)


def _log_to_stderr(level: str, running_function: ContextVar[str]) -> None:
    """Configure logging to stderr. Each log line names the Azure function that wrote it.

    Control characters are escaped and tracebacks indented, because untrusted text must not look
    like another log line.
    """

    class Format(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            name = running_function.get()
            record.source = f"Functions.{name}" if name else record.name
            return super().format(record)

        def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base's name
            return _escape(super().formatMessage(record))

        def formatException(self, ei: Any) -> str:  # noqa: N802  the base's name
            lines = super().formatException(ei).split("\n")
            return "\n".join(f"    {_escape(line)}" for line in lines)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Format("%(asctime)s %(levelname)s [%(source)s] %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Azure's SDK logs each request at level info, which would bury the user's own log lines.
    logging.getLogger("azure").setLevel(max(logging.WARNING, logging.root.level))


def _escape(text: str) -> str:
    """Return the text with an escape such as `\\n` for each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


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
