"""The errors with which `loosely up` ends, and their exit codes.

UpError
├── RepositoryMissing      the repository with the components is missing           exit 2
├── UnknownPart            --only or --without names an unknown component          exit 2
├── PortBusy               another process listens on a needed port           exit 98
├── DataDirectoryInUse     another `loosely up` uses the data directory       exit 98
├── PreparationFailed      a file that a component reads cannot be made            exit 1
└── PartFailed             a component does not become ready                       exit 1
    └── PartPortBusy       a component's port was taken                         exit 98
"""

from typing import ClassVar

PORT_BUSY_EXIT_CODE = 98
USAGE_EXIT_CODE = 2


class UpError(Exception):
    """`loosely up` cannot continue. The message says what happened and what to do."""

    exit_code: ClassVar[int] = 1


class RepositoryMissing(UpError):
    """Neither the package nor the current directory is in a Loosely repository."""

    exit_code = USAGE_EXIT_CODE


class UnknownPart(UpError):
    """An option names a component that does not exist."""

    exit_code = USAGE_EXIT_CODE


class PortBusy(UpError):
    """Another process already listens on a port that a component of the local system needs."""

    exit_code = PORT_BUSY_EXIT_CODE


class DataDirectoryInUse(UpError):
    """Another `loosely up` uses the data directory."""

    exit_code = PORT_BUSY_EXIT_CODE


class PreparationFailed(UpError):
    """The command that creates a file for a component has failed."""


class PartFailed(UpError):
    """A component died too often before it was ready, or did not become ready in time."""


class PartPortBusy(PartFailed):
    """A component ended at once because another process took its port after the check."""

    exit_code = PORT_BUSY_EXIT_CODE
