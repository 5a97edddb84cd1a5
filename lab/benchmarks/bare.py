"""Measure a bare loop, which only runs a model. `./dev bench` compares the system with this loop.

`python -m lab.benchmarks.bare PICTURE BATCH_SIZE SECONDS [tuned]` prints the number of images per
second. The loop uses no queue. It decodes the picture for every inference, as a worker does for
every job. With `tuned`, the loop uses the worker's settings of the C allocator. The default model
is `classifier` of the repository's catalogue. `--model NAME` and `--catalogue FILE` select another
model.
"""

import argparse
import sys
import time
from pathlib import Path

from contract.catalogue import Catalogue, ModelEntry
from worker.inference.loaded_model import LoadedModel
from worker.processes.setup import available_processors, keep_large_blocks, torch_threads


def measure_images_per_second(
    model: ModelEntry, picture: bytes, batch_size: int, seconds: float
) -> float:
    """Decode and classify a JPEG again and again for `seconds`. Return the images per second.

    `batch_size` is the number of images that the model classifies at once.
    """
    loaded = LoadedModel.load(model, torch_threads(available_processors()))
    run_batch(loaded, picture, batch_size)
    count = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        run_batch(loaded, picture, batch_size)
        count += batch_size
    return count / elapsed


def run_batch(loaded: LoadedModel, picture: bytes, batch_size: int) -> None:
    """Decode a JPEG `batch_size` times, and classify the decoded images as one batch."""
    batch = [loaded.prepare(picture, "image/jpeg") for _ in range(batch_size)]
    for output in loaded.call_model(batch):
        loaded.encode_output(output)


def main(arguments: list[str]) -> None:
    """Measure the model that the arguments select, and print its images per second."""
    parser = argparse.ArgumentParser(prog="python -m lab.benchmarks.bare", description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("batch_size", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("tuned", nargs="?", choices=["tuned"])
    parser.add_argument("--catalogue", type=Path)
    parser.add_argument("--model", default="classifier")
    options = parser.parse_args(arguments)
    if options.tuned:
        keep_large_blocks()
    catalogue = Catalogue.load(options.catalogue) if options.catalogue else Catalogue.load()
    rate = measure_images_per_second(
        catalogue.model(options.model),
        options.picture.read_bytes(),
        options.batch_size,
        options.seconds,
    )
    sys.stdout.write(f"{rate:.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
