"""A helper for tests that starts a process which dies while it loads models."""

import os
from collections.abc import Callable
from pathlib import Path

from worker.processes.load_journal import LoadJournal


def die_while_loading(folder: Path, *names: str, prepare: Callable[[], object] = int) -> None:
    """Run a process that dies while it loads the models with these names.

    The process first calls `prepare`. `folder` is the folder of the process's load journal.
    """
    child = os.fork()
    if child == 0:
        journal = LoadJournal(folder)
        held = [prepare()]
        for name in names:
            held.append(journal.noting_load(name))
            held[-1].__enter__()  # type: ignore[attr-defined]
        os._exit(0)
    os.waitpid(child, 0)
