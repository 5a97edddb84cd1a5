"""A model that cannot be loaded: its constructor ends the process, or raises an error."""

import ctypes
import os


class Infer:
    """A model that cannot be loaded."""

    accepts = "bytes"

    def __init__(self, weights: object = None, *, how: str = "") -> None:
        if how == "exit":
            os._exit(0)
        if how == "segfault":
            ctypes.string_at(0)
        raise RuntimeError(f"this model is broken: {how}")

    def __call__(self, batch: list[bytes]) -> list[object]:
        return []
