"""The errors that end the host, and the two errors of an invocation.

StartError (emulator.program)   the host writes the message to stderr, and exits with this status:
├── HostDirectoryInUse   2   another host uses the same data directory
└── AppLoadError         1   the Function App cannot be loaded, or all its functions are in error
    └── RouteInvalid         a route template is invalid; the host keeps running and responds 503

FunctionFailure    the function raised an exception, or is disabled
AppUnavailable     the app process ended or is restarting
"""

from emulator.program import StartError


class HostDirectoryInUse(StartError):
    """Another host uses the same data directory."""

    exit_code = 2


class AppLoadError(StartError):
    """The Function App cannot be loaded, or all its functions are in error."""


class RouteInvalid(AppLoadError):
    """A route template is invalid. As in Azure, the host keeps running without the app."""


class FunctionFailure(Exception):
    """A function of the app raised an exception, or is disabled.

    As in Azure, the text of this error is `TypeName: message`. `stack` is the traceback without the
    line of the exception itself, and may be empty. If `type_name` is empty, the function did not
    run, and the text of this error is the message.
    """

    def __init__(self, type_name: str, message: str, stack: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if type_name else message)
        self.type_name = type_name
        self.message = message
        self.stack = stack


class AppUnavailable(Exception):
    """The app process has ended or is restarting, so the caller must retry later.

    If `not_started` is true, the function did not start. Otherwise, the function may have run.
    """

    def __init__(self, message: str, *, not_started: bool = False) -> None:
        super().__init__(message)
        self.not_started = not_started
