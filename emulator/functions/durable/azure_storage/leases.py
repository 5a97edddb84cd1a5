"""The leases that assign each partition to one host.

Each host renews its own row and its leases. The partitions are shared out in the order of the ids
of the live hosts. A host with more than its share releases the surplus once no episode runs on it.
A host with less acquires leases that are free or expired.
"""

import sqlite3
from collections.abc import Collection

from emulator.functions.durable.azure_storage.queues import PARTITION_COUNT


class PartitionLeases:
    """The leases of one host."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self.owned: frozenset[int] = frozenset()
        """The partitions that this host owned at the last renewal."""
        self.draining: frozenset[int] = frozenset()
        """The owned partitions that are to be released. They are not dequeued from."""

    def renew(
        self,
        connection: sqlite3.Connection,
        now: int,
        expires_at: int,
        busy: Collection[int],
    ) -> frozenset[int]:
        """Renew, acquire and release leases; return the partitions that were released or lost.

        `busy` are the partitions on which episodes run on this host.
        """
        connection.execute("INSERT OR REPLACE INTO hosts VALUES(?, ?)", (self._host_id, expires_at))
        connection.execute("DELETE FROM hosts WHERE expires_at<=?", (now,))
        for partition in range(PARTITION_COUNT):
            connection.execute("INSERT OR IGNORE INTO leases VALUES(?, NULL, 0)", (partition,))
        mine = self._read(connection)
        share = self._share(connection)
        surplus = sorted(mine)[share:]
        released = [partition for partition in surplus if partition not in busy]
        for partition in released:
            self._release(connection, partition)
        if len(mine) < share:
            self._acquire(connection, now, expires_at, share - len(mine))
        connection.execute(
            "UPDATE leases SET expires_at=? WHERE owner=?", (expires_at, self._host_id)
        )
        former, self.owned = self.owned, self._read(connection)
        self.draining = frozenset(surplus) & self.owned
        return former - self.owned

    def is_held(self, connection: sqlite3.Connection, partition: int, now: int) -> bool:
        """Return whether this host's lease on a partition is valid now."""
        row = connection.execute(
            "SELECT 1 FROM leases WHERE partition=? AND owner=? AND expires_at>?",
            (partition, self._host_id, now),
        ).fetchone()
        return row is not None

    def release_all(self, connection: sqlite3.Connection) -> None:
        """Release all leases, so that another host can acquire them at once."""
        for partition in self._read(connection):
            self._release(connection, partition)
        connection.execute("DELETE FROM hosts WHERE id=?", (self._host_id,))
        self.owned = self.draining = frozenset()

    def _read(self, connection: sqlite3.Connection) -> frozenset[int]:
        rows = connection.execute("SELECT partition FROM leases WHERE owner=?", (self._host_id,))
        return frozenset(partition for (partition,) in rows)

    def _share(self, connection: sqlite3.Connection) -> int:
        hosts = [row[0] for row in connection.execute("SELECT id FROM hosts ORDER BY id")]
        share, remainder = divmod(PARTITION_COUNT, len(hosts))
        return share + (hosts.index(self._host_id) < remainder)

    def _acquire(
        self, connection: sqlite3.Connection, now: int, expires_at: int, count: int
    ) -> None:
        free = connection.execute(
            "SELECT partition FROM leases WHERE owner IS NULL OR (owner<>? AND expires_at<=?)"
            " ORDER BY partition LIMIT ?",
            (self._host_id, now, count),
        ).fetchall()
        for (partition,) in free:
            connection.execute(
                "UPDATE leases SET owner=?, expires_at=? WHERE partition=?",
                (self._host_id, expires_at, partition),
            )

    def _release(self, connection: sqlite3.Connection, partition: int) -> None:
        connection.execute(
            "UPDATE leases SET owner=NULL, expires_at=0 WHERE partition=? AND owner=?",
            (partition, self._host_id),
        )
