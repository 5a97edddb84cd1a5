"""The context of a model that runs without a job, and the checks of a progress report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_MESSAGE_CHARACTERS: Final = 500


def check_progress(fraction: float | None, message: str | None) -> None:
    """Raise ValueError if the fraction is not from 0 to 1, or if the text is too long."""
    if fraction is not None and not 0 <= fraction <= 1:
        raise ValueError(f"fraction: expected a number from 0 to 1, found {fraction}")
    if message is not None and len(message) > MAX_MESSAGE_CHARACTERS:
        raise ValueError(
            f"message: expected at most {MAX_MESSAGE_CHARACTERS} characters, found {len(message)}"
        )


class NoParentJob(Exception):
    """A model has called `context.run` without a running job."""

    code = "no-parent-job"


class NullContext:
    """A context that sends no reports, for runs of a model without a job."""

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Check the report as a worker does."""
        check_progress(fraction, message)

    def check(self) -> None:
        """Do nothing, because there is no job that could be cancelled."""

    def run(
        self, model: str, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Raise NoParentJob, because child jobs need a running job as their parent."""
        raise NoParentJob(
            f"context.run needs a running job; start the system to run jobs of {model}"
        )
