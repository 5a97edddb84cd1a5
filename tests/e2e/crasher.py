"""A model that ends its worker by a signal or by an exit, as a faulty driver or library does."""

import os
import signal


class Infer:
    """Kill the worker on the input `die`, exit on `exit N`, and return any other input."""

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
