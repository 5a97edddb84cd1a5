"""The launcher alone, without a guard: what the kernel does for the parts."""

import os
import subprocess
import sys

import psutil
import pytest

from loosely.local import child

pytestmark = pytest.mark.e2e

SLEEP = "import time; print('runs', flush=True); time.sleep(600)"
# Starts the launcher as the supervisor does, and tells the process id that became the part.
SUPERVISOR = f"""
import os, subprocess, sys, time
part = subprocess.Popen(
    [sys.executable, "-I", "-S", {child.__file__!r}, str(os.getpid()),
     sys.executable, "-c", {SLEEP!r}],
    stdout=subprocess.PIPE, start_new_session=True)
part.stdout.readline()
print(part.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the guard alone does this")
def test_a_part_dies_with_its_supervisor() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        part = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()

        _, alive = psutil.wait_procs([part], timeout=5)
        assert not alive


def test_the_launcher_becomes_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), "/bin/echo", "a b"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("a b\n", "")


def test_a_part_whose_supervisor_is_gone_is_not_started() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", child.__file__, "1", "/bin/echo", "started"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
