"""Run the local blob storage and moto's S3 server, and name their endpoints."""

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import DEVNULL, Popen

from contract.settings import AzureEndpoint, S3Endpoint
from tests.conformance.gateway.emulated_services import running, storage
from tests.ports import free_port

BUCKET = "loosely-test"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running_s3() -> Iterator[S3Endpoint]:
    """Run moto's server with a bucket."""
    port = free_port()
    command = [sys.executable, "-c", MOTO, str(port)]
    with Popen(command, stdin=-1, stdout=-1, stderr=DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            url = f"http://127.0.0.1:{port}"
            request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request, timeout=30).close()
            yield S3Endpoint(BUCKET, url)
        finally:
            process.kill()


@contextmanager
def running_azure(folder: str) -> Iterator[AzureEndpoint]:
    """Run the local blob storage."""
    port = free_port()
    with running("emulator.blobs", port, "--data", folder):
        yield storage(port)
