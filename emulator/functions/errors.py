"""What ends the host, beside what ends any local service (see emulator.program).

StartError                one line says why
├── DataInUse         2   another host works on the same data directory
└── AppLoadError      1   the folder does not load, or holds what the host cannot serve

What one invocation may end in (FunctionFailure, AppUnavailable) is in runner.py.
"""

from emulator.program import StartError


class DataInUse(StartError):
    """Another host works on the same data directory."""

    exit_code = 2


class AppLoadError(StartError):
    """The Function App cannot be served as it stands."""
