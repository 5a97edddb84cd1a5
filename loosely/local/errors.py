"""The errors with which `loosely up` ends, and their exit codes.

UpError
├── ExtraMissing           the packages of the extra `local` are missing        exit 2
├── FolderUnusable         a folder cannot be made or packaged                  exit 2
├── CatalogueInvalid       the model catalogue cannot be read                   exit 2
├── UnknownPart            --only or --without names an unknown component       exit 2
├── PortBusy               another process listens on a port that is needed     exit 98
├── DataDirectoryInUse     another `loosely up` uses the data directory         exit 98
├── DataDirectoryUnusable  the data directory cannot be written                 exit 1
├── PreparationFailed      a file that a component reads cannot be made         exit 1
└── PartFailed             the settings of a component are invalid              exit 1
    └── PartPortBusy       another process took a component's port              exit 98
"""

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
