"""What ends the host, and with which exit status.

HostError                 one line says why
├── SettingError      2   an option, host.json, local.settings.json or a %NAME% is of no use
├── DataInUse         2   another host works on the same data directory
├── PortInUse        98   another program listens on the port
└── AppLoadError      1   the folder does not load, or holds what the host cannot serve

What one invocation may end in (FunctionFailure, AppUnavailable) is in runner.py.
"""


class HostError(Exception):
    """The host cannot go on; the text is one line for who started it."""

    exit_code = 1


class SettingError(HostError):
    """An option or setting is of no use."""

    exit_code = 2


class DataInUse(HostError):
    """Another host works on the same data directory."""

    exit_code = 2


class PortInUse(HostError):
    """Another program listens on the port."""

    exit_code = 98


class AppLoadError(HostError):
    """The Function App cannot be served as it stands."""
