"""A model that takes its worker with it: what a driver that segfaults looks like from outside."""

import os
import signal


class Infer:
    """Dies on the input `die`, echoes everything else."""

    accepts = "bytes"

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[object]:
        if b"die" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"echo": item.decode()} for item in batch]
