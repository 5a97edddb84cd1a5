"""Tests of AppFileWatch, which finds changed files of a Function App."""

import os
from pathlib import Path

from emulator.functions.watch import AppFileWatch, forget_bytecode, forget_old_bytecode


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_change_is_reported_once(tmp_path: Path) -> None:
    changed = write(tmp_path / "function_app.py", "a")
    removed = write(tmp_path / "package" / "old.py", "a")
    write(tmp_path / "same.py", "a")
    watch = AppFileWatch(tmp_path)
    changed.write_text("b")
    os.utime(changed, ns=(0, 0))
    removed.unlink()
    added = write(tmp_path / "other" / "new.py", "a")
    settings = [write(tmp_path / name, "{}") for name in ("host.json", "local.settings.json")]
    assert set(watch.find_changes()) == {changed, removed, added, *settings}
    assert watch.find_changes() == []


def test_same_content_is_no_change(tmp_path: Path) -> None:
    path = write(tmp_path / "function_app.py", "a")
    watch = AppFileWatch(tmp_path)
    path.unlink()
    write(path, "a")
    os.utime(path, ns=(0, 0))
    assert watch.find_changes() == []
    write(path, "b")
    assert watch.find_changes() == [path]


def test_file_of_same_size_and_time_is_a_change(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "function_app.py", "a")
    watch, before = AppFileWatch(tmp_path), path.stat().st_mtime_ns
    fresh = write(tmp_path / "fresh", "b")
    os.utime(fresh, ns=(before, before))
    fresh.replace(path)
    assert watch.find_changes() == [path]


def test_unrelated_files_and_folders_are_ignored(
    tmp_path: Path,
) -> None:
    write(tmp_path / "env" / "pyvenv.cfg", "")
    watch = AppFileWatch(tmp_path)
    for name in ("notes.txt", ".git/x.py", ".venv/x.py", "__pycache__/x.py", "env/lib/x.py"):
        write(tmp_path / name, "a")
    assert watch.find_changes() == []


async def test_quick_changes_are_reported_together(
    tmp_path: Path,
) -> None:
    watch = AppFileWatch(tmp_path)
    unsaved = [tmp_path / "a.py", tmp_path / "b.py"]
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if unsaved:
            write(unsaved.pop(0), "text")

    assert await watch.wait_for_changes(sleep) == [tmp_path / "a.py", tmp_path / "b.py"]
    assert pauses == [0.4, 0.2, 0.2]


def test_only_the_changed_files_bytecode_is_deleted(tmp_path: Path) -> None:
    for name in ("a.cpython-311.pyc", "a.cpython-312.pyc", "ab.cpython-311.pyc"):
        write(tmp_path / "__pycache__" / name, "")
    forget_bytecode(tmp_path / "a.py")
    assert [path.name for path in (tmp_path / "__pycache__").iterdir()] == ["ab.cpython-311.pyc"]


def test_only_bytecode_that_is_older_than_its_file_is_deleted(tmp_path: Path) -> None:
    for name, changed_ns in (("old", 2), ("same", 1), ("new", 0)):
        source = write(tmp_path / "package" / f"{name}.py", "")
        cached = write(source.parent / "__pycache__" / f"{name}.cpython-311.pyc", "")
        os.utime(source, ns=(0, changed_ns))
        os.utime(cached, ns=(0, 1))
    forget_old_bytecode(tmp_path)
    cache = tmp_path / "package" / "__pycache__"
    assert [path.name for path in cache.iterdir()] == ["new.cpython-311.pyc"]
