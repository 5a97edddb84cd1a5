"""A model that returns an option of its catalogue entry. Each version has a different value."""

import os
import signal


class Infer:
    """A model that returns its option `answer`, so that tests can see which version ran the job.

    On the input `die`, the model kills the worker. If `answer` is `broken`, loading the model
    fails.
    """

    accepts = "bytes"

    def __init__(self, answer: str) -> None:
        if answer == "broken":
            raise RuntimeError("this version cannot be loaded")
        self._answer = answer

    def __call__(self, item: bytes) -> dict[str, str]:
        if item == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"answer": self._answer}
