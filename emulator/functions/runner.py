"""The seam between the durable engine and the process that runs the user's code."""

from typing import Protocol


class FunctionFailure(Exception):
    """The user's function raised; the text reads `TypeName: message`, as Azure reports it."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name = type_name
        self.message = message


class AppUnavailable(Exception):
    """The app process is gone or restarting: the caller keeps the work and repeats it later.

    `not_started` tells that the function surely did not run.
    """

    def __init__(self, message: str, *, not_started: bool = False) -> None:
        super().__init__(message)
        self.not_started = not_started


class FunctionRunner(Protocol):
    """Runs orchestrators and activities of one Function App.

    Function names are those the functions were registered with.
    """

    orchestrators: frozenset[str]
    activities: frozenset[str]

    async def orchestrate(self, name: str, context_json: str) -> str:
        """Run one episode of an orchestrator and return the SDK executor's state as JSON.

        Raises FunctionFailure (the message then ends in the executor's `$OutOfProcData$` part)
        or AppUnavailable.
        """
        ...

    async def act(self, name: str, input_json: str, instance_id: str) -> str | None:
        """Run an activity on its JSON input and return its result as JSON text.

        Raises FunctionFailure or AppUnavailable.
        """
        ...
