"""Why ``loosely up`` ends without having been asked to.

UpError
├── RepositoryMissing      the parts to start are not here                exit 2
├── UnknownPart            --only or --without names no part              exit 2
├── PortBusy               another process listens on a port we need      exit 98
├── DataInUse              another `up` runs on the same data directory   exit 98
├── PreparationFailed      a file that a part needs cannot be made        exit 1
└── PartFailed             a part cannot be brought to readiness          exit 1 (98: its port)
"""

from typing import ClassVar

PORT_BUSY_EXIT_CODE = 98
USAGE_EXIT_CODE = 2


class UpError(Exception):
    """``up`` cannot go on; the message says what happened and what to do."""

    exit_code: ClassVar[int] = 1


class RepositoryMissing(UpError):
    """Neither the package's place nor the current directory is a Loosely repository."""

    exit_code = USAGE_EXIT_CODE


class UnknownPart(UpError):
    """A part was named that does not exist."""

    exit_code = USAGE_EXIT_CODE


class PortBusy(UpError):
    """A port that a part listens on is taken."""

    exit_code = PORT_BUSY_EXIT_CODE


class DataInUse(UpError):
    """The data directory belongs to another running ``up``."""

    exit_code = PORT_BUSY_EXIT_CODE


class PreparationFailed(UpError):
    """A file that a part reads at its start could not be made."""


class PartFailed(UpError):
    """A part died again and again before it was ready, or never became ready."""


class PartPortBusy(PartFailed):
    """A part ended at once since its port was taken after we had looked."""

    exit_code = PORT_BUSY_EXIT_CODE
