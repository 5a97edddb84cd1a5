"""The interface of a loaded app, which hides whether the app has a process of its own.

AppProcess     a process of its own, with `--isolated` (app_process.py)
InProcessApp   the process of the host (in_process.py)
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emulator.functions.errors import AppLoadError

if TYPE_CHECKING:
    from emulator.functions.durable.direct import DurableBinding
    from emulator.functions.exchange import Exchange

_log = logging.getLogger("functions.host")
_THREADS_SETTING = "PYTHON_THREADPOOL_THREAD_COUNT"
_MOST_THREADS = 32

InvocationResponse = tuple[list[Any], bytes]
"""The head and the body of a response, without the number of the frame: see app/frames.py."""


@dataclass(frozen=True, slots=True)
class AppSource:
    """The folder of an app, and the app settings and options with which it is loaded.

    `python` is the interpreter of an isolated app.
    """

    folder: Path
    settings: Mapping[str, str]
    python: str = sys.executable
    log_level: str = "info"
    is_isolated: bool = False

    @property
    def script(self) -> str:
        """The file name of the app's main module."""
        return self.settings.get("PYTHON_SCRIPT_FILE_NAME") or "function_app.py"

    def read_thread_count(self) -> int | None:
        """Return the size of the thread pool, or None for Python's default; log a bad setting."""
        threads = self.settings.get(_THREADS_SETTING)
        if threads is None:
            return None
        if threads.isdecimal() and 1 <= int(threads) <= _MOST_THREADS:
            return int(threads)
        _log.warning(
            "the app setting %s is ignored: expected a whole number from 1 to %d, got %s",
            _THREADS_SETTING,
            _MOST_THREADS,
            threads,
        )
        return None


class LoadedApp(Protocol):
    """An app whose functions can be invoked."""

    functions: list[dict[str, Any]]
    """The functions of the app, as app/indexing.py describes them."""

    has_web_extension: bool
    """Whether HTTP requests go to the app's web extension."""

    @property
    def has_ended(self) -> bool:
        """Whether the app's own process has ended."""
        ...

    def begin(self, durable: "DurableBinding | None") -> None:
        """Set the durable client of the functions, if there is one, before the first `invoke`.

        Raises ConnectionError if the app's own process has ended.
        """
        ...

    async def invoke(self, call: list[Any], body: bytes) -> InvocationResponse:
        """Run a function, and return its response. Raises AppUnavailable without one.

        `call` is the head of the frame in app/frames.py, without its number. If the caller is
        cancelled, an asynchronous function in the host's process is cancelled, too.
        """
        ...

    async def invoke_web(self, call: list[Any], exchange: "Exchange") -> InvocationResponse:
        """Run a function whose request and response pass through the app's web extension.

        Raises ForwardError if they did not, and AppUnavailable.
        """
        ...

    def give_up(self, function: str) -> None:
        """End a function that has run longer than `functionTimeout`, as far as that is possible."""
        ...

    async def stop(self) -> None:
        """End the app, and all that its functions have left running."""
        ...


def require_functions(functions: list[dict[str, Any]]) -> None:
    """Raise AppLoadError if an app has no functions."""
    if not functions:
        raise AppLoadError(
            "no functions were found in the app: define functions with the decorators of the "
            "object FunctionApp"
        )
