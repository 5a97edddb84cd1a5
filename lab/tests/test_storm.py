"""Run jobs while processes are killed at random, jobs are cancelled, or Service Bus throttles."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.storm.rig import AZURE_STORAGE, LOCAL, ROOT
from lab.storm.streams import REDIS, STORES

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(300)]


def run_storm(data: Path, *options: str) -> str:
    """Run `./dev storm`, check that it exits with 0, and return its output."""
    command = [sys.executable, "-m", "lab.storm", "--data", str(data), "--limit", "240", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("engine", [LOCAL, AZURE_STORAGE])
def test_each_accepted_job_ends_once(tmp_path: Path, engine: str) -> None:
    options = ("--engine", engine, "--jobs", "60", "--kills", "4", "--seed", "1")
    printed = run_storm(tmp_path, *options)
    assert "accepted                  60 of 60\n" in printed


@pytest.mark.parametrize("engine", [LOCAL, AZURE_STORAGE])
def test_jobs_cancelled_at_once_end_as_cancelled(tmp_path: Path, engine: str) -> None:
    printed = run_storm(tmp_path, "--engine", engine, "--cancel", "40", "--seed", "1")
    assert "\nwithout a worker: cancelled 40 of 40\n" in printed


@pytest.mark.parametrize("store", STORES)
def test_readers_get_each_event_once(tmp_path: Path, store: str) -> None:
    if store == REDIS and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    options = ("--streams", "8", "--store", store, "--kills", "6", "--seed", "1")
    printed = run_storm(tmp_path, *options)
    assert "\nstreams                   8\n" in printed


@pytest.mark.parametrize("engine", [LOCAL, AZURE_STORAGE])
def test_each_line_is_once_in_the_output(tmp_path: Path, engine: str) -> None:
    options = ("--engine", engine, "--batches", "2", "--lines", "100", "--kills", "5")
    printed = run_storm(tmp_path, *options, "--seed", "1")
    assert "accepted                  200 of 200\n" in printed


def test_only_killers_are_dead_lettered(tmp_path: Path) -> None:
    printed = run_storm(tmp_path, "--killers", "5", "--jobs", "100", "--seed", "1")
    assert "\nended                     failed 5, succeeded 95\n" in printed
    assert "\ndead-lettered             5 of 5 killers\n" in printed


def test_throttled_jobs_succeed(tmp_path: Path) -> None:
    printed = run_storm(tmp_path, "--throttle", "8", "--jobs", "50", "--seed", "1")
    assert "\nanswered                  50 of 50\n" in printed
    assert "\ndead-lettered             0\n" in printed
