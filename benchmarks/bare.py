"""Measure the classifier in a bare loop. `./dev bench` compares the whole system with this loop.

`python -m benchmarks.bare PICTURE BATCH_SIZE SECONDS [tuned]` prints the number of images per
second. The loop has no messages. It decodes the picture for every inference, as a worker does for
every job. With `tuned`, the loop uses the worker's settings of the C allocator.
"""

import sys
import time
from pathlib import Path

from contract.catalogue import Catalogue
from worker.inference.loaded_model import LoadedModel
from worker.process import available_processors, keep_large_blocks, torch_threads


def measure_images_per_second(picture: bytes, batch_size: int, seconds: float) -> float:
    """Decode and classify the picture in batches for `seconds`; return the images per second."""
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
    """Decode `batch_size` copies of the picture, and classify them as one batch."""
    batch = [loaded.prepare(picture, "image/jpeg") for _ in range(batch_size)]
    for output in loaded.run(batch):
        loaded.finish(output)


def main(arguments: list[str]) -> None:
    """Measure the classifier, and print the number of images per second."""
    picture, batch_size, seconds, *tuned = arguments
    if tuned:
        keep_large_blocks()
    rate = measure_images_per_second(Path(picture).read_bytes(), int(batch_size), float(seconds))
    sys.stdout.write(f"{rate:.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
