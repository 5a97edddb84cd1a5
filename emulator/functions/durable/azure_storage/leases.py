"""The leases that assign each partition to one host.

Each host renews its leases, and its row in the table of hosts. The partitions are divided equally
among the live hosts. If they cannot be divided equally, the first hosts in the order of their ids
own one partition more than the others. A host with more partitions than its share releases each
surplus partition as soon as no episode runs on that partition. A host with fewer partitions than
its share acquires leases that are free or expired.
"""

import sqlite3
from collections.abc import Collection

from emulator.functions.durable.azure_storage.queues import PARTITION_COUNT


class PartitionLeases:
    """The leases of one host on partitions of the task hub."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self.owned: frozenset[int] = frozenset()
        """The partitions that this host owned after the last renewal."""
        self.draining: frozenset[int] = frozenset()
        """The owned partitions that this host will release, and does not dequeue from."""

    def renew(
        self,
        connection: sqlite3.Connection,
        now: int,
        expires_at: int,
        busy: Collection[int],
    ) -> frozenset[int]:
        """Renew this host's leases, and acquire or release others for an equal share of each host.

        Return the partitions that this host has lost. Partitions in `busy` run episodes now.
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
        """Return whether this host has a lease on the partition that is valid at the time `now`."""
        row = connection.execute(
            "SELECT 1 FROM leases WHERE partition=? AND owner=? AND expires_at>?",
            (partition, self._host_id, now),
        ).fetchone()
        return row is not None

    def release_all(self, connection: sqlite3.Connection) -> None:
        """Release all leases of this host, so that another host can acquire them at once."""
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
