"""Which host owns which partition.

Each host renews its own row and its leases. Partitions are shared out by the order of the live
hosts' ids. A host that owns more than its share gives the surplus up, once no episode runs on it;
a host that owns less takes leases that are free or expired.
"""

import sqlite3
from collections.abc import Collection

from emulator.functions.durable.azure_storage.queues import PARTITION_COUNT


class Leases:
    """The partitions of one host."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self.owned: frozenset[int] = frozenset()
        """What this host owned when it last looked."""
        self.draining: frozenset[int] = frozenset()
        """What it owns and is about to give up: nothing is dequeued from these."""

    def renew(
        self,
        connection: sqlite3.Connection,
        now: int,
        expires_at: int,
        busy: Collection[int],
    ) -> frozenset[int]:
        """Renew, take and give up leases; return the partitions that were given up or lost.

        `busy` are the partitions on which episodes run here.
        """
        connection.execute("INSERT OR REPLACE INTO hosts VALUES(?, ?)", (self._host_id, expires_at))
        connection.execute("DELETE FROM hosts WHERE expires_at<=?", (now,))
        for partition in range(PARTITION_COUNT):
            connection.execute("INSERT OR IGNORE INTO leases VALUES(?, NULL, 0)", (partition,))
        mine = self._read(connection)
        share = self._share(connection)
        surplus = sorted(mine)[share:]
        given_up = [partition for partition in surplus if partition not in busy]
        for partition in given_up:
            self._release(connection, partition)
        if len(mine) < share:
            self._take(connection, now, expires_at, share - len(mine))
        connection.execute(
            "UPDATE leases SET expires_at=? WHERE owner=?", (expires_at, self._host_id)
        )
        former, self.owned = self.owned, self._read(connection)
        self.draining = frozenset(surplus) & self.owned
        return former - self.owned

    def holds(self, connection: sqlite3.Connection, partition: int, now: int) -> bool:
        """Return whether this host's lease on a partition is valid at this moment."""
        row = connection.execute(
            "SELECT 1 FROM leases WHERE partition=? AND owner=? AND expires_at>?",
            (partition, self._host_id, now),
        ).fetchone()
        return row is not None

    def release_all(self, connection: sqlite3.Connection) -> None:
        """Give up all leases, so that another host may take them at once."""
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

    def _take(self, connection: sqlite3.Connection, now: int, expires_at: int, count: int) -> None:
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
