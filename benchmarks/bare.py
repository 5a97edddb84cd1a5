"""Run the classifier in a bare loop, as the baseline for the whole system.

`python -m benchmarks.bare PICTURE BATCH_SIZE SECONDS [tuned]` prints images/s. `tuned` applies the
worker's settings of the C allocator. The loop decodes each picture, because the worker decodes it
for each job.
"""

import sys
import time
from pathlib import Path

from contract.catalogue import Catalogue
from worker.inference.loaded_model import LoadedModel
from worker.process import available_processors, keep_large_blocks, torch_threads


def measure_images_per_second(picture: bytes, batch_size: int, seconds: float) -> float:
    """Decode and classify the same picture in batches on one thread, and return images/s."""
    loaded = LoadedModel.load(
        Catalogue.load().model("classifier"), torch_threads(available_processors())
    )
    run_batch(loaded, picture, batch_size)
    count = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        run_batch(loaded, picture, batch_size)
        count += batch_size
    return count / elapsed


def run_batch(loaded: LoadedModel, picture: bytes, batch_size: int) -> None:
    """Process a batch as a worker does, but without messages."""
    batch = [loaded.prepare(picture, "image/jpeg") for _ in range(batch_size)]
    for output in loaded.run(batch):
        loaded.finish(output)


def main(arguments: list[str]) -> None:
    """Measure and print images/s. The benchmark of the whole system starts this program."""
    picture, batch_size, seconds, *tuned = arguments
    if tuned:
        keep_large_blocks()
    rate = measure_images_per_second(Path(picture).read_bytes(), int(batch_size), float(seconds))
    sys.stdout.write(f"{rate:.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
