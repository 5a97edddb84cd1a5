"""A model whose results contain an option, so that tests see which version ran."""

import os
import signal


class Infer:
    """A model that returns the option `answer`, but kills the worker on the input `die`."""

    accepts = "bytes"

    def __init__(self, answer: str) -> None:
        if answer == "broken":
            raise RuntimeError("this version cannot be loaded")
        self._answer = answer

    def __call__(self, item: bytes) -> dict[str, str]:
        if item == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"answer": self._answer}
