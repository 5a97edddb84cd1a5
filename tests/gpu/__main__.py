"""`./dev gpu`: run everything that needs a GPU; do nothing without one.

Runs the tests with the marker `gpu`, then measures the worker at saturation in full and half
precision. Arguments go to pytest; with arguments, nothing is measured.
"""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> int:
    """Run this interpreter from the root of the repository; return its exit code."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run everything; return the first exit code that is not 0."""
    if not torch.cuda.is_available():
        sys.stdout.write("dev gpu: there is no GPU at hand, nothing was run\n")
        return 0
    sys.stdout.write(f"dev gpu: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    sys.stdout.flush()
    tested = run("-m", "pytest", "-m", "gpu", *arguments)
    if tested or arguments:
        return tested
    return run("-m", "benchmarks", "worker", "--catalogue", "benchmarks/gpu.toml")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
