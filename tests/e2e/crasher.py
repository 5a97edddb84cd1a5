"""A model that ends the worker's process on some inputs, as a faulty driver or library does."""

import os


class Infer:
    """Returns its input, but `exit N` ends the worker."""

    accepts = "bytes"

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[object]:
        for item in batch:
            if item.startswith(b"exit "):
                os._exit(int(item.split()[1]))
        return [{"echo": item.decode()} for item in batch]
