"""Test that the emulator services return free memory to the operating system."""

import subprocess
import sys

import pytest

MIB = 1024 * 1024
PROGRAM = """
import time
from pathlib import Path
from emulator.program import start_trimming

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

freed, kept = [], []
for _ in range(2000):
    freed.append(bytearray(100_000))
    kept.append(bytearray(600))
freed.clear()
before = resident_bytes()
start_trimming(0.01)
until = time.monotonic() + 30
while before - resident_bytes() < 150 * 1024 * 1024 and time.monotonic() < until:
    pass
print(before - resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can trim its memory")
def test_trimming_returns_memory_between_used_blocks() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    ).stdout
    assert int(printed) > 150 * MIB
