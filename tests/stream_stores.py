"""Run the two stores of streams for a test: local append blobs, and Debian's redis-server."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from azure.core.exceptions import ResourceNotFoundError

from contract.names import PAYLOAD_CONTAINER
from contract.settings import AzureEndpoint
from contract.streams import StreamEvent, parse_event, stream_blob, stream_key
from tests.ports import free_port
from worker.objects.azure import storage_account
from worker.streams.blobs import AppendBlobs
from worker.streams.redis_streams import RedisStreamLogs
from worker.streams.store import WritableLogs

_START_SECONDS = 20.0


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Run a Redis server, and yield its URL. Skip the test if redis-server is not installed."""
    if (program := shutil.which("redis-server")) is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen([*command, "--save", ""], stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}"
    try:
        _wait_for_redis(url)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_for_redis(url: str) -> None:
    ends_at = time.monotonic() + _START_SECONDS
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        while True:
            try:
                client.ping()
            except redis.RedisError:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.02)
            else:
                return


class BlobLogs:
    """A store of streams in local blobs, and its logs."""

    def __init__(self, connection_string: str) -> None:
        endpoint = AzureEndpoint(connection_string=connection_string)
        self._account = storage_account(endpoint)
        self.store: WritableLogs = AppendBlobs(self._account)

    def events(self, job_id: str) -> list[StreamEvent | None]:
        """Return all events of a log. None stands for a line that is no event."""
        blob = self._account.get_blob_client(PAYLOAD_CONTAINER, stream_blob(job_id))
        try:
            lines = blob.download_blob().readall().splitlines()
        except ResourceNotFoundError:
            return []
        return [parse_event(line) for line in lines]

    def delete(self, job_id: str) -> None:
        """Delete a log."""
        self._account.get_blob_client(PAYLOAD_CONTAINER, stream_blob(job_id)).delete_blob()

    def close(self) -> None:
        """Close the connections."""
        self.store.close()
        self._account.close()


class RedisLogs:
    """A store of streams in Redis, and its logs."""

    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(url)
        self.store: WritableLogs = RedisStreamLogs(url, kept_seconds=60)

    def events(self, job_id: str) -> list[StreamEvent | None]:
        """Return all events of a log. None stands for an entry that is no event."""
        found = self._redis.xrange(stream_key(job_id))
        events = [parse_event(fields[b"event"]) for _, fields in found]
        assert [event.id if event else "" for event in events] == [key.decode() for key, _ in found]
        return events

    def delete(self, job_id: str) -> None:
        """Delete a log."""
        self._redis.delete(stream_key(job_id))

    def close(self) -> None:
        """Close the connections."""
        self.store.close()
        self._redis.close()
