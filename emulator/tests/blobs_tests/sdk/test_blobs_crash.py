"""Test that acknowledged writes survive if SIGKILL ends the Blob service at a random time."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from pathlib import Path

import httpx
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.storage.blob import BlobServiceClient, CorsRule

from blobs_tests.sdk.blob_servers import Server, run_emulator, signature
from local_ports import free_port

SMALL, LARGE = 1_000, 60_000
ROUNDS = 6
PUTS_A_ROUND = 60


def content_of(name: str) -> bytes:
    size = LARGE if int(name) % 3 == 0 else SMALL
    return hashlib.sha256(name.encode()).digest() * (size // 32)


def put_until_killed(server: Server, names: list[str], acknowledged: list[str]) -> None:
    with httpx.Client(timeout=10) as client:
        for name in names:
            url = f"{server.url}/box/{name}?{signature()}"
            headers = {"x-ms-blob-type": "BlockBlob", "if-none-match": "*"}
            try:
                answer = client.put(url, content=content_of(name), headers=headers)
            except httpx.TransportError:
                return
            assert answer.status_code == 201
            acknowledged.append(name)
            if len(acknowledged) == PUTS_A_ROUND:
                server.process.kill()


def test_writes_survive_a_kill(tmp_path: Path) -> None:
    data, port = tmp_path / "data", free_port()
    order = random.Random(20260301)
    kept: list[str] = []
    for round_number in range(ROUNDS):
        with run_emulator(data, port=port) as server:
            if round_number == 0:
                httpx.put(f"{server.url}/box?restype=container&{signature()}")
            acknowledged: list[str] = []
            names = [
                str(number) for number in range(round_number * 1000, round_number * 1000 + 900)
            ]
            order.shuffle(names)
            writers = [
                threading.Thread(target=put_until_killed, args=(server, part, acknowledged))
                for part in (names[:300], names[300:600], names[600:])
            ]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            kept += acknowledged
    assert len(kept) >= ROUNDS * PUTS_A_ROUND
    with run_emulator(data, port=port) as server, httpx.Client() as client:
        for name in kept:
            answer = client.get(f"{server.url}/box/{name}?{signature()}")
            assert answer.content == content_of(name)
        listed = client.get(f"{server.url}/box?restype=container&comp=list&{signature()}").text
        found = [part.split("<")[0] for part in listed.split("<Name>")[1:]]
        assert set(kept) <= set(found)
        # Other blobs may exist too, because the kill may precede the acknowledgement. They must be
        # complete.
        for name in set(found) - set(kept):
            answer = client.get(f"{server.url}/box/{name}?{signature()}")
            assert answer.content == content_of(name)
        files = [path for path in (data / "content").rglob("*") if path.is_file()]
        assert len(files) == sum(int(name) % 3 == 0 for name in found)


def test_appends_and_leases_survive_a_kill(
    tmp_path: Path,
) -> None:
    def block(number: int) -> bytes:
        """Return a block, each third of which is so large that it is stored in a file."""
        return f"{number:05}\n".encode() * (6000 if number % 3 == 0 else 1)

    data, port = tmp_path / "data", free_port()
    kept, content = 0, b""
    for round_number in range(2):
        with run_emulator(data, port=port) as server, _client(server) as service:
            blob = service.get_blob_client("box", "log")
            position = len(content)
            if round_number == 0:
                service.create_container("box")
                blob.create_append_blob()
                lease_id = str(blob.acquire_lease().id)
            killer = threading.Timer(0.1 * round_number + 0.2, server.process.kill)
            killer.start()
            with contextlib.suppress(ServiceRequestError, ServiceResponseError):
                for number in range(kept, 100_000):
                    appended = block(number)
                    blob.append_block(appended, appendpos_condition=position, lease=lease_id)
                    position += len(appended)
                    kept = number + 1
            killer.join()
        with run_emulator(data, port=port) as server, _client(server) as service:
            blob = service.get_blob_client("box", "log")
            content = blob.download_blob(lease=lease_id).readall()
            count = blob.get_blob_properties().append_blob_committed_block_count
        # The kill may come after the commit and before the acknowledgement.
        assert count in {kept, kept + 1}
        assert content == b"".join(block(number) for number in range(count))
        kept = count
    assert kept > 0
    assert len([path for path in (data / "content").rglob("*") if path.is_file()]) == -(-kept // 3)


def test_cors_rules_survive_a_kill(tmp_path: Path) -> None:
    data, port = tmp_path / "data", free_port()
    kept = ""
    for round_number in range(3):
        with run_emulator(data, port=port) as server, _client(server) as service:
            assert _allowed_origins(service) == kept
            tried = ""
            killer = threading.Timer(0.1 * round_number + 0.1, server.process.kill)
            killer.start()
            with contextlib.suppress(ServiceRequestError, ServiceResponseError):
                for number in range(100_000):
                    tried = f"http://page-{round_number}-{number}"
                    service.set_service_properties(cors=[CorsRule([tried], ["GET"])])
                    kept = tried
            killer.join()
        # The kill may come after the commit and before the acknowledgement.
        with run_emulator(data, port=port) as server, _client(server) as service:
            assert _allowed_origins(service) in {kept, tried}
            kept = _allowed_origins(service)
            headers = {"origin": kept, "access-control-request-method": "GET"}
            assert httpx.options(server.url, headers=headers).status_code == 200
    assert kept


def _client(server: Server) -> BlobServiceClient:
    return BlobServiceClient.from_connection_string(server.connection_string, retry_total=0)


def _allowed_origins(service: BlobServiceClient) -> str:
    rules = service.get_service_properties()["cors"]
    return ",".join(rule.allowed_origins for rule in rules)
