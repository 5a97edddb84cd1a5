"""The command-line options of the Functions host."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.program import HttpLimits


@dataclass(frozen=True, slots=True)
class HostOptions:
    """The command-line options of the host."""

    folder: Path
    data: Path
    host: str | None = None
    """The address to listen on. None means the loopback addresses."""
    port: int = 7071
    log_level: str = "info"
    python: str = sys.executable
    is_isolated: bool = False
    """Whether the app has a process of its own."""
    limits: HttpLimits = field(default_factory=HttpLimits)
    storage: AzureStorageOptions | None = None
    """The options of the azure-storage engine. If None, the host uses the default engine."""
    settings_file: Path | None = None
    """A file in the format of local.settings.json, in addition to the one in the folder."""
    functions: tuple[str, ...] = ()
    """The names of the functions to load. If empty, the host loads all functions."""
    cors_origins: tuple[str, ...] = ()
    """The origins whose pages may use the functions."""
    is_reloading: bool = True
    """Whether the app is reloaded when one of its files changes."""
    logs_invocations: bool = True
    """Whether the log has the start and the end of each invocation."""
    has_colour: bool = False
    """Whether the list of the functions has colours."""
