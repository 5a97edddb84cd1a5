"""The store of one storage account: an index and content files in a data directory.

Only one process at a time can use a data directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from emulator.blobs.content import ContentFiles, ContentStreams, sync_directory
from emulator.blobs.cors import CorsRule
from emulator.blobs.index.committer import IndexCommitter
from emulator.blobs.index.queries import find_live_content, find_service_properties
from emulator.blobs.index.schema import create_index, open_reader, open_writer
from emulator.blobs.index.writes import expire_blocks, set_service_properties
from emulator.blobs.service_properties import build_cors, read_cors_rules
from emulator.blobs.times import Clock, to_microseconds
from emulator.disk import DiskStatus, is_disk_error
from emulator.program import SettingError, StartError, make_private_directory

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger(__name__)
_EXPIRY_INTERVAL_SECONDS = 3600.0


class AccountStore:
    """The store of one storage account.

    The owner must call `open`, then `start` on an event loop, and finally `close`. The CORS rules
    are in memory, because each request needs them.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._files = ContentFiles(root / "content")
        self._index = root / "index.sqlite3"
        self.streams = ContentStreams(self._files)
        self.cors_rules: tuple[CorsRule, ...] = ()
        self.disk = DiskStatus(root)

    def open(self) -> None:
        """Lock the data directory, open the index, and remove unused content files.

        Raises SettingError if the directory cannot be used, and StartError if its disk is full.
        """
        try:
            make_private_directory(self._root)
            self._lock = os.open(self._root / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._files.prepare()
        except BlockingIOError:
            raise SettingError(
                f"another process uses the data directory {self._root}; "
                "choose another directory with --data"
            ) from None
        except OSError as error:
            kind = StartError if is_disk_error(error) else SettingError
            raise kind(f"the data directory {self._root} cannot be used: {error}") from error
        try:
            create_index(self._index)
            sync_directory(self._root)
            self._reader = open_reader(self._index)
            self._lister = open_reader(self._index)
            self._committer = IndexCommitter(self._index)
        except (sqlite3.Error, OSError) as error:
            raise StartError(f"the index {self._index} cannot be opened: {error}") from error
        self._lister_thread = ThreadPoolExecutor(1, thread_name_prefix="lister")
        self._load_cors_rules()
        if removed := self._files.sweep(find_live_content(self._reader)):
            _logger.info("removed %d unused content files", removed)

    def start(self) -> None:
        """Start the thread that changes the index, and the task that removes expired blocks."""
        self._committer.start()
        self._expiry = asyncio.create_task(self._expire_forever())

    async def close(self) -> None:
        """Commit the submitted changes, stop all threads, and unlock the data directory."""
        self._expiry.cancel()
        await asyncio.to_thread(self._committer.stop)
        self._lister_thread.shutdown()
        self.streams.close()
        self._reader.close()
        self._lister.close()
        os.close(self._lock)

    def read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return the result of `query`, which reads the index within microseconds."""
        return query(self._reader, *args, **kwargs)

    async def read_long(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return the result of `query`, which reads the index on another thread."""
        ask = partial(query, self._lister, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._lister_thread, ask)

    async def change(
        self,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Apply `change` to the index, and return its result after the commit."""
        result = await self._committer.apply(lambda db: change(db, *args, **kwargs))
        self.disk.note_success()
        return result

    def replace_cors_rules(self, rules: Sequence[CorsRule]) -> None:
        """Replace the CORS rules of the account, between `open` and `start`.

        The same rules are not written again, so that the program can start on a full disk. Raises
        StorageError if a rule is invalid, and StartError if the rules cannot be stored.
        """
        properties = build_cors(rules)
        if properties.items() <= self.read(find_service_properties).items():
            return
        try:
            with contextlib.closing(open_writer(self._index)) as db:
                set_service_properties(db, properties)
        except sqlite3.Error as error:
            raise StartError(f"the CORS rules cannot be stored: {error}") from error
        self._load_cors_rules()

    async def set_service_properties(self, properties: Mapping[str, str]) -> None:
        """Store properties of the Blob service as XML text by name."""
        await self.change(set_service_properties, properties)
        self._load_cors_rules()

    def _load_cors_rules(self) -> None:
        # Always the committed rules, even if several requests set them at the same time.
        self.cors_rules = read_cors_rules(self.read(find_service_properties))

    async def expire(self) -> int:
        """Remove blocks that expire after a week, and return their number."""
        now_us = to_microseconds(self._clock())
        unreferenced = await self.change(expire_blocks, now_us)
        self.streams.release(unreferenced)
        return len(unreferenced)

    async def _expire_forever(self) -> None:
        while True:
            try:
                expired = await self.expire()
            except sqlite3.Error as error:
                _logger.warning(
                    "expired uncommitted blocks could not be removed: %s; the next attempt is in an"
                    " hour",
                    error,
                )
            else:
                if expired:
                    _logger.info("removed %d expired uncommitted blocks", expired)
            await asyncio.sleep(_EXPIRY_INTERVAL_SECONDS)
