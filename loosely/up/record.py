"""The record of what runs, for whoever reads ``up.json``."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loosely.up import events
from loosely.up.data import RunningPart, RunningSystem
from loosely.up.parts import Part


class Record:
    """Keeps ``up.json`` in step with what runs.

    It appears once every part has been started, and a dead part stays in it, not ready,
    until its successor takes its place: readers find all parts or nothing. Of a fleet it has
    those that run.
    """

    def __init__(self, directory: Path, logs: Path, url: str, parts: Sequence[Part]) -> None:
        """Keep the record of ``directory``; ``parts`` are those that always run."""
        self._directory = directory
        self._logs = logs
        self._url = url
        self._order = {part.name: place for place, part in enumerate(parts)}
        self._parts: dict[str, RunningPart] = {}
        self._complete = False

    def follow(self, event: events.Event) -> None:
        """Write down what ``event`` changes."""
        part = event.part
        match event:
            case events.Started(_, pid):
                log = str(self._logs / f"{part.name}.log")
                self._parts[part.name] = RunningPart(pid, dict(part.ports), log, ready=False)
            case events.Ready():
                self._set_ready(part, ready=True)
            case events.Died() | events.Stopping():
                self._set_ready(part, ready=False)
            case events.Stopped():
                self._parts.pop(part.name, None)
            case _:
                return
        self._complete = self._complete or self._order.keys() <= self._parts.keys()
        if self._complete:
            # In the order of the table, whichever process came first.
            names = sorted(self._parts, key=lambda name: self._order.get(name, len(self._order)))
            parts = {name: self._parts[name] for name in names}
            RunningSystem(os.getpid(), self._url, parts).write(self._directory)

    def _set_ready(self, part: Part, *, ready: bool) -> None:
        if part.name in self._parts:
            self._parts[part.name] = replace(self._parts[part.name], ready=ready)
