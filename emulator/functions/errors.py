"""What ends the host, beside what ends any local service (see emulator.program).

StartError                one line says why
├── DataInUse         2   another host works on the same data directory
└── AppLoadError      1   the folder does not load, or holds what the host cannot serve

What one invocation may end in (FunctionFailure, AppUnavailable) is in runner.py.

The seam between the durable engine and the process that runs the user's code.
"""

from emulator.program import StartError


class DataInUse(StartError):
    """Another host works on the same data directory."""

    exit_code = 2


class AppLoadError(StartError):
    """The Function App cannot be served as it stands."""


class FunctionFailure(Exception):
    """The user's function raised; the text reads `TypeName: message`, as Azure reports it."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name = type_name
        self.message = message


class AppUnavailable(Exception):
    """The app process is gone or restarting: the caller keeps the work and repeats it later.

    `not_started` tells that the function surely did not run.
    """

    def __init__(self, message: str, *, not_started: bool = False) -> None:
        super().__init__(message)
        self.not_started = not_started
