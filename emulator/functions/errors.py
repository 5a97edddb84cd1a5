"""Errors that end the host, and the two ways in which an invocation fails.

StartError (emulator.program)   one line in the log, and this exit status:
├── HostDirectoryInUse   2   another host uses the same data directory
└── AppLoadError         1   the folder does not load, or has a function that the host cannot serve

FunctionFailure    the function raised an exception
AppUnavailable     the app process ended or is restarting
"""

from emulator.program import StartError


class HostDirectoryInUse(StartError):
    """Another host uses the same data directory."""

    exit_code = 2


class AppLoadError(StartError):
    """The host cannot serve the Function App."""


class FunctionFailure(Exception):
    """The function raised an exception. The text is `TypeName: message`, as Azure reports it."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name = type_name
        self.message = message


class AppUnavailable(Exception):
    """The app process has ended or is restarting: the caller has to retry later.

    If `not_started` is true, the function did not run.
    """

    def __init__(self, message: str, *, not_started: bool = False) -> None:
        super().__init__(message)
        self.not_started = not_started
