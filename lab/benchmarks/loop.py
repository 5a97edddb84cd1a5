"""Run a model in a bare loop, which does nothing else. No worker can be faster than this loop.

`python -m lab.benchmarks.loop CATALOGUE MODEL PICTURE…` loads the model and then reads numbers from
stdin, one on each line. For a number N, the program processes N pictures. The number of threads and
the batch size are the same as in a worker. Some threads decode and preprocess the pictures, one
thread runs the model, and one thread postprocesses the outputs. There are no messages, locks or
replies.

For each line of stdin, the program prints a JSON object. The object contains the number of images,
the seconds from the start of the first batch to the end of the last batch, and the seconds during
which the model ran.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from contract.catalogue import Catalogue, ModelEntry
from worker.inference.loaded_model import LoadedModel
from worker.processes.setup import (
    available_processors,
    keep_large_blocks,
    prefer_device_thread,
    preparing_threads,
    torch_threads,
)

# As in the worker, one batch runs while the next batch is prepared.
_BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class LoopThroughput:
    """The throughput of one run of the loop or of a worker.

    `images` is the number of processed images. `seconds` is the time from the start of the first
    batch to the end of the last batch. `busy_seconds` is the time during which the model ran.
    """

    images: int
    seconds: float
    busy_seconds: float

    @property
    def per_second(self) -> float:
        """The number of images processed per second."""
        return self.images / self.seconds

    @property
    def busy_share(self) -> float:
        """The fraction of `seconds` during which the model ran, from 0 to 1."""
        return self.busy_seconds / self.seconds

    @property
    def busy_ms(self) -> float:
        """The average time that the model needed for one image, in milliseconds."""
        return self.busy_seconds / self.images * 1000


class Loop:
    """Runs a loaded model without a worker.

    Other threads prepare the inputs of the model and postprocess its outputs.
    """

    def __init__(self, model: ModelEntry, pictures: Sequence[bytes]) -> None:
        self._runner = LoadedModel.load(model, torch_threads(available_processors()))
        self._batch_size = model.max_batch_size
        self._pictures = pictures
        self._preparing = ThreadPoolExecutor(preparing_threads(available_processors()))
        self._finishing = ThreadPoolExecutor(1)

    def run(self, images: int) -> LoopThroughput:
        """Process `images` images, and return the throughput.

        `images` must be a multiple of the batch size.
        """
        ready: SimpleQueue[Any] = SimpleQueue()
        free_slots = threading.Semaphore(self._batch_size * _BATCHES_AHEAD)

        def prepare(picture: bytes) -> None:
            ready.put(self._runner.prepare(picture, "image/jpeg"))

        def feed() -> None:
            for picture in islice(cycle(self._pictures), images):
                free_slots.acquire()
                self._preparing.submit(prepare, picture)

        threading.Thread(target=feed).start()
        begin, busy_seconds = 0.0, 0.0
        for _ in range(images // self._batch_size):
            batch = [ready.get() for _ in range(self._batch_size)]
            started = time.perf_counter()
            begin = begin or started
            outputs = self._runner.call_model(batch)
            busy_seconds += time.perf_counter() - started
            free_slots.release(self._batch_size)
            for output in outputs:
                self._finishing.submit(self._runner.encode_output, output)
        return LoopThroughput(images, time.perf_counter() - begin, busy_seconds)


def main(arguments: list[str]) -> None:
    """Load the model, then process a number of images for each line of stdin.

    Each line contains the number of images. When these images are processed, print their throughput
    as a JSON object.
    """
    catalogue, name, *paths = arguments
    keep_large_blocks()
    prefer_device_thread(os.environ)
    model = Catalogue.load(Path(catalogue)).model(name)
    loop = Loop(model, [Path(path).read_bytes() for path in paths])
    loop.run(model.max_batch_size * 2)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(loop.run(int(line)))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
