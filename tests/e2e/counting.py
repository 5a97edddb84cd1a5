"""A model that writes its inputs to the file that the environment variable COUNTING_FILE names."""

import os
import time
from pathlib import Path


class Infer:
    """A model that returns its input. For the input `sleep N`, it waits N milliseconds first."""

    accepts = "bytes"

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[object]:
        ran = [item.decode() for item in batch]
        with Path(os.environ["COUNTING_FILE"]).open("a", encoding="utf-8") as file:
            file.write("".join(f"{item}\n" for item in ran))
        time.sleep(sum(int(item[6:]) for item in ran if item.startswith("sleep ")) / 1000)
        return [{"echo": item} for item in ran]
