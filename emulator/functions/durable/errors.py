"""The errors that a durable engine raises.

DurableError
├── ArgumentInvalid      400: the request can never succeed
├── InstanceMissing      404: no instance has this id
├── InstanceExists       409: an unfinished instance has this id
├── InstanceFinished     410: the instance has reached a final status
├── InstanceUnfinished   412: the instance has not reached a final status yet
├── InstanceNotFailed    412: the instance cannot be rewound, because it has not failed
├── RequestTooLarge      413: the body is larger than the limit (in management.py)
├── StorageRefused       500: Azure Storage would refuse the request
├── OperationInvalid     500: the instance's status does not allow the operation
├── StoreUnavailable     500: the database failed and nothing was written; repeat the request
├── DatabaseInUse        another host has opened the database
├── DatabaseForeign      the file is not a database of this engine and version
├── NonDeterministic     the actions of an orchestrator do not match its history
└── ActionInvalid        an orchestrator requested an action that is invalid or not supported

The numbers are the HTTP statuses of the Durable extension's management API.
"""


class DurableError(Exception):
    """The base class of the errors of durable engines.

    `status` is the HTTP status of the response. `kind` is the .NET exception type in the response,
    and is the same as in Azure.
    """

    status = 500
    kind = "System.Exception"


class ArgumentInvalid(DurableError):
    """An argument of the request is invalid, so the same request fails each time."""

    status = 400
    kind = "System.ArgumentException"


class InstanceMissing(DurableError):
    """No instance has the id in the request."""

    status = 404


class InstanceExists(DurableError):
    """An instance cannot be started, because an unfinished instance already has its id."""

    status = 409
    kind = "DurableTask.Core.Exceptions.OrchestrationAlreadyExistsException"


class InstanceFinished(DurableError):
    """The operation is impossible, because the instance has already reached a final status."""

    status = 410


class InstanceUnfinished(DurableError):
    """The operation is impossible, because the instance has not reached a final status yet."""

    status = 412


class InstanceNotFailed(DurableError):
    """The instance cannot be rewound, because it has not failed."""

    status = 412


class StorageRefused(DurableError):
    """Azure Storage would refuse the request, because it contains an invalid name or number."""

    kind = "DurableTask.AzureStorage.Storage.DurableTaskStorageException"

    def __init__(self) -> None:
        super().__init__("An error occurred while communicating with Azure Storage")


class OperationInvalid(DurableError):
    """The instance's status does not allow the operation."""

    kind = "System.InvalidOperationException"


class StoreUnavailable(DurableError):
    """The database failed. If this happened in a transaction, nothing was written."""


class DatabaseInUse(DurableError):
    """Another host has opened the database."""


class DatabaseForeign(DurableError):
    """The file is not a database of this engine and version."""


class NonDeterministic(DurableError):
    """The actions of an orchestrator do not match its history.

    Usually the orchestrator's code was changed while the instance was running. The error text is
    the output of the failed instance.
    """


class ActionInvalid(DurableError):
    """An orchestrator requested an action that is invalid or that the engine does not support.

    The error text describes the problem.
    """
