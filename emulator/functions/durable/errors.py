"""What may go wrong between a client and the engine.

DurableError
├── ArgumentInvalid      400: the request can never succeed
├── InstanceMissing      404: no instance has this id
├── InstanceExists       409: an unfinished instance has this id
├── InstanceFinished     410: the instance has reached a final status
├── InstanceUnfinished   412: the instance has not reached a final status yet
├── OperationInvalid     500: the instance's present status does not allow the operation
├── StoreUnavailable     500: nothing was written; the same request may be repeated
├── DatabaseInUse        another host holds the database
├── DatabaseForeign      the file is not a database of this version
└── ActionInvalid        an orchestrator asked for something the engine cannot do

The numbers are the HTTP statuses of the Durable extension's management API.
"""


class DurableError(Exception):
    """The root of these errors; `status` is the HTTP answer, `kind` Azure's exception type."""

    status = 500
    kind = "System.Exception"
    retryable = False


class ArgumentInvalid(DurableError):
    """The request can never succeed."""

    status = 400
    kind = "System.ArgumentException"


class InstanceMissing(DurableError):
    """No instance has this id."""

    status = 404


class InstanceExists(DurableError):
    """An unfinished instance has this id."""

    status = 409
    kind = "DurableTask.Core.Exceptions.OrchestrationAlreadyExistsException"


class InstanceFinished(DurableError):
    """The instance has reached a final status."""

    status = 410


class InstanceUnfinished(DurableError):
    """The instance has not reached a final status yet."""

    status = 412


class OperationInvalid(DurableError):
    """The instance's present status does not allow the operation."""

    kind = "System.InvalidOperationException"


class StoreUnavailable(DurableError):
    """The database refused a transaction: nothing of it was written."""

    retryable = True


class DatabaseInUse(DurableError):
    """Another host holds the database."""


class DatabaseForeign(DurableError):
    """The file is not a database of this version."""


class ActionInvalid(DurableError):
    """An orchestrator asked for something the engine cannot do; the text is for its author."""
