"""A process that uses the gateway's port to objects: `python -m … ENDPOINT ACTION NAME`.

ENDPOINT is a connection string, or `s3://BUCKET URL`. The action `create` waits for a line, creates
the object, and prints whether it was created. `append` appends lines to a log until it is killed,
and prints the number of each line before it appends it.
"""

import asyncio
import sys

from contract.settings import AzureEndpoint, S3Endpoint
from gateway.storage.factory import make_storage


def text_of(endpoint: AzureEndpoint | S3Endpoint) -> str:
    """Return the argument that stands for an endpoint."""
    if isinstance(endpoint, S3Endpoint):
        return f"s3://{endpoint.bucket} {endpoint.url}"
    return endpoint.connection_string or ""


def _say(value: object) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


async def act(text: str, action: str, name: str) -> None:
    """Do what the arguments say."""
    bucket, _, url = text.removeprefix("s3://").partition(" ")
    is_s3 = text.startswith("s3://")
    payloads, blobs, _ = make_storage(
        S3Endpoint(bucket, url) if is_s3 else AzureEndpoint(text), None
    )
    if action == "create":
        await blobs.read(name)
        _say("ready")
        sys.stdin.readline()
        _say(await blobs.create(name, b"{}") is not None)
    number = 0
    while action == "append":
        _say(number)
        await blobs.append(name, b"%d\n" % number)
        number += 1
    await payloads.close()


if __name__ == "__main__":
    asyncio.run(act(*sys.argv[1:]))
