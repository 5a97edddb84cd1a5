"""A model that kills its worker, as a segmentation fault in a driver does."""

import os
import signal


class Infer:
    """Kill the worker on the input `die`, and return any other input."""

    accepts = "bytes"

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[object]:
        if b"die" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"echo": item.decode()} for item in batch]
