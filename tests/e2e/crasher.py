"""A model that ends the worker's process on some inputs, as a faulty driver or library does."""

import os
import signal
import threading


class Infer:
    """Returns its input, but `die`, `exit N` and `hang` end or block the worker."""

    accepts = "bytes"

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[object]:
        if b"die" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        if b"hang" in batch:
            threading.Event().wait()
        for item in batch:
            if item.startswith(b"exit "):
                os._exit(int(item.split()[1]))
        return [{"echo": item.decode()} for item in batch]
