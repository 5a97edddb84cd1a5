"""The classifier in a bare loop: what the worker is compared with.

`python -m benchmarks.bare PICTURE BATCH_SIZE SECONDS [tuned]` prints images/s, with `tuned` under
the worker's settings of the C allocator. Decoding is part of the loop, as it is part of a job.
"""

import sys
import time
from pathlib import Path

from contract.catalogue import Catalogue
from worker.inference.loaded_model import LoadedModel
from worker.process import available_processors, keep_large_blocks, torch_threads


def images_per_second(picture: bytes, batch_size: int, seconds: float) -> float:
    """Decode and classify the same picture in batches, on one thread."""
    loaded = LoadedModel.load(
        Catalogue.load().model("classifier"), torch_threads(available_processors())
    )
    one_batch(loaded, picture, batch_size)
    count = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        one_batch(loaded, picture, batch_size)
        count += batch_size
    return count / elapsed


def one_batch(loaded: LoadedModel, picture: bytes, batch_size: int) -> None:
    """All that a worker does for a batch of jobs, but for their messages."""
    batch = [loaded.prepare(picture, "image/jpeg") for _ in range(batch_size)]
    for output in loaded.run(batch):
        loaded.finish(output)


def main(arguments: list[str]) -> None:
    """Print the rate alone, for the benchmark that starts this."""
    picture, batch_size, seconds, *tuned = arguments
    if tuned:
        keep_large_blocks()
    rate = images_per_second(Path(picture).read_bytes(), int(batch_size), float(seconds))
    sys.stdout.write(f"{rate:.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
