"""Test that free memory of the C allocator is returned to the operating system."""

import subprocess
import sys

import pytest

from contract import allocator

MIB = 1024 * 1024

FRAGMENT_THE_HEAP = """
from pathlib import Path
from contract import allocator

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

# Blocks of 100 kB lie in the heap, because glibc maps only larger blocks on their own.
freed, kept = [], []
for _ in range(2000):
    freed.append(bytearray(100_000))
    kept.append(bytearray(600))
freed.clear()
"""

pytestmark = pytest.mark.skipif(
    not allocator.free_bytes(), reason="the C library is not glibc 2.33 or newer"
)


def run(script: str) -> str:
    """Run `script` in a process whose heap is fragmented, and return what the process prints."""
    return subprocess.run(
        [sys.executable, "-c", FRAGMENT_THE_HEAP + script],
        env={"PYTHONPATH": "functions", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    ).stdout


def test_trim_returns_free_memory() -> None:
    before, free, after, left = map(
        int,
        run(
            "print(resident_bytes(), allocator.free_bytes())\n"
            "allocator.trim()\n"
            "print(resident_bytes(), allocator.free_bytes())\n"
        ).split(),
    )
    assert free > 150 * MIB
    assert before - after > 150 * MIB
    # The allocator counts the returned memory as free, because it can use the addresses again.
    assert left <= free


def test_thread_returns_free_memory() -> None:
    before, after = map(
        int,
        run(
            "import time\n"
            "print(before := resident_bytes())\n"
            "allocator.start_trimming(0.01)\n"
            "until = time.monotonic() + 30\n"
            "while before - resident_bytes() < 150 * 1024 * 1024 and time.monotonic() < until:\n"
            "    pass\n"
            "print(resident_bytes())\n"
        ).split(),
    )
    assert before - after > 150 * MIB
