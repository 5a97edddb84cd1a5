"""A model that ends the worker's process on some inputs, as a faulty driver or library does."""

import os
import signal


class Infer:
    """A model that returns its input, except for two inputs that end the worker.

    On the input `die`, the model kills the worker's process. On the input `exit N`, the process
    exits with the status N.
    """

    accepts = "bytes"

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[object]:
        if b"die" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        for item in batch:
            if item.startswith(b"exit "):
                os._exit(int(item.split()[1]))
        return [{"echo": item.decode()} for item in batch]
