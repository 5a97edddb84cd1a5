"""The errors with which `loosely up` ends, and their exit codes."""

from typing import ClassVar

PORT_BUSY_EXIT_CODE = 98
USAGE_EXIT_CODE = 2


class UpError(Exception):
    """`loosely up` cannot continue. The message says what happened and what to do."""

    exit_code: ClassVar[int] = 1


class ExtraMissing(UpError):
    """The packages of the extra `local` are not installed."""

    exit_code = USAGE_EXIT_CODE


class FolderUnusable(UpError):
    """A model folder cannot be made here, or it cannot be packaged."""

    exit_code = USAGE_EXIT_CODE


class CatalogueInvalid(UpError):
    """The model catalogue cannot be read, or an entry is not valid."""

    exit_code = USAGE_EXIT_CODE


class UnknownPart(UpError):
    """--only or --without names an unknown component, or leaves out a component that must run."""

    exit_code = USAGE_EXIT_CODE


class ServerMissing(UpError):
    """The program of the broker that --broker names is not installed."""

    exit_code = USAGE_EXIT_CODE


class PortBusy(UpError):
    """Another process listens on a port that a component needs."""

    exit_code = PORT_BUSY_EXIT_CODE


class DataDirectoryInUse(UpError):
    """Another `loosely up` uses the data directory."""

    exit_code = PORT_BUSY_EXIT_CODE


class DataDirectoryUnusable(UpError):
    """The data directory cannot be written, for example because the disk is full."""


class PreparationFailed(UpError):
    """The command that makes a file for a component has failed."""


class PartFailed(UpError):
    """A component refuses its settings, so another start would fail in the same way."""


class PartPortBusy(PartFailed):
    """A component ended because another process took its port after the ports were checked."""

    exit_code = PORT_BUSY_EXIT_CODE
