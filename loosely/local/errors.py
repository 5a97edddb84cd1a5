"""Why `loosely up` ends with an error, and its exit codes.

UpError
├── RepositoryMissing      the repository with the parts is missing           exit 2
├── UnknownPart            --only or --without names an unknown part          exit 2
├── PortBusy               another process listens on a needed port           exit 98
├── DataDirectoryInUse     another `loosely up` uses the data directory       exit 98
├── PreparationFailed      a file that a part reads cannot be made            exit 1
└── PartFailed             a part does not become ready                       exit 1
    └── PartPortBusy       a part found its port taken                        exit 98
"""

from typing import ClassVar

PORT_BUSY_EXIT_CODE = 98
USAGE_EXIT_CODE = 2


class UpError(Exception):
    """`loosely up` cannot continue; the message says what happened and what to do."""

    exit_code: ClassVar[int] = 1


class RepositoryMissing(UpError):
    """Neither the package nor the current directory is in a Loosely repository."""

    exit_code = USAGE_EXIT_CODE


class UnknownPart(UpError):
    """An option names a part that does not exist."""

    exit_code = USAGE_EXIT_CODE


class PortBusy(UpError):
    """Another process listens on a port that a part needs."""

    exit_code = PORT_BUSY_EXIT_CODE


class DataDirectoryInUse(UpError):
    """Another `loosely up` uses the data directory."""

    exit_code = PORT_BUSY_EXIT_CODE


class PreparationFailed(UpError):
    """The command that makes a file for a part has failed."""


class PartFailed(UpError):
    """A part died too often before it was ready, or did not become ready in time."""


class PartPortBusy(PartFailed):
    """A part ended at once because its port was taken after the check."""

    exit_code = PORT_BUSY_EXIT_CODE
