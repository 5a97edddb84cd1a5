"""Test `child.py`, which starts a component so that the kernel kills it if `loosely up` dies."""

import os
import subprocess
import sys

import psutil
import pytest

from loosely.local import child

pytestmark = pytest.mark.e2e

SLEEP = "import time; print('runs', flush=True); time.sleep(600)"
# Starts child.py as the supervisor does, and prints the process id of the component.
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


@pytest.mark.skipif(
    sys.platform != "linux", reason="on other systems only the reaper kills the component"
)
def test_component_dies_with_its_supervisor() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        part = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()

        _, alive = psutil.wait_procs([part], timeout=5)
        assert not alive


def test_script_runs_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), "/bin/echo", "a b"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("a b\n", "")


def test_component_of_a_dead_supervisor_is_not_started() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", child.__file__, "1", "/bin/echo", "started"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
