"""Test that the lock file of a process exists until the process ends or is killed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from tests.unit.worker.child_processes import running_child
from worker.memory.lock_files import LockFileFolder

# Create a lock file. Then wait, or change the lock file again and again.
CHILD = """
import itertools, sys
from pathlib import Path
from worker.memory.lock_files import LockFileFolder
lock_files = LockFileFolder(Path(sys.argv[1]))
with lock_files.locked():
    file = lock_files.add({"who": "child"})
print("up", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
for number in itertools.count():
    with lock_files.locked():
        file.write({"who": "child", "text": "x" * (number % 500)})
        lock_files.read()
"""


def read(lock_files: LockFileFolder) -> list[object]:
    with lock_files.locked():
        return [file["who"] for file in lock_files.read().values()]


def test_file_is_readable_until_its_process_ends(tmp_path: Path) -> None:
    lock_files = LockFileFolder(tmp_path)
    with lock_files.locked():
        lock_files.add({"who": "me"})
    with running_child(CHILD, tmp_path, "wait") as other:
        assert sorted(map(str, read(lock_files))) == ["child", "me"]
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        assert read(lock_files) == ["me"]
        assert len(list(tmp_path.glob("*.page"))) == 1, (
            "the lock file of the ended process is deleted"
        )


def test_files_are_readable_after_a_kill_while_writing(tmp_path: Path) -> None:
    lock_files = LockFileFolder(tmp_path)
    pause = threading.Event()
    for number in range(8):
        with running_child(CHILD, tmp_path, "write") as other:
            pause.wait(0.001 * number)
            other.send_signal(signal.SIGKILL)
            other.wait(10)
        assert read(lock_files) == []


def test_unreadable_file_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock_files, other = LockFileFolder(tmp_path), LockFileFolder(tmp_path)
    with lock_files.locked():
        file = lock_files.add({"who": "me"})
    next(iter(tmp_path.glob("*.page"))).write_text("{")
    assert read(other) == []
    assert "cannot be read" in caplog.text
    with lock_files.locked():
        file.write({"who": "me again"})
    assert read(other) == ["me again"]


def test_only_one_thread_holds_the_folder_lock(tmp_path: Path) -> None:
    folders = [LockFileFolder(tmp_path), LockFileFolder(tmp_path)]
    with folders[0].locked():
        file = folders[0].add({"count": 0})

    def count(lock_files: LockFileFolder) -> None:
        for _ in range(100):
            with lock_files.locked():
                file.write({"count": int(lock_files.read()[file.name]["count"]) + 1})

    threads = [threading.Thread(target=count, args=(folders[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    with folders[0].locked():
        assert folders[0].read()[file.name] == {"count": 400}
