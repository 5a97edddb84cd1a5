"""Run all tests and benchmarks that need a GPU (`./dev gpu`). Without a GPU, do nothing.

First, pytest runs the tests with the marker `gpu`. Then a benchmark measures the throughput of the
worker in full and in half precision. If the command has arguments, they are passed to pytest, and
the benchmark is skipped.
"""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> int:
    """Run Python with these arguments in the root of the repository. Return the exit code."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run all GPU tests and benchmarks. Return the first exit code that is not 0, or else 0."""
    if not torch.cuda.is_available():
        sys.stdout.write("dev gpu: this machine has no GPU, so no test was run\n")
        return 0
    sys.stdout.write(f"dev gpu: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    sys.stdout.flush()
    tested = run("-m", "pytest", "-m", "gpu", *arguments)
    if tested or arguments:
        return tested
    return run("-m", "lab.benchmarks", "worker", "--catalogue", "lab/benchmarks/gpu.toml")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
