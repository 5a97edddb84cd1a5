"""Send a body without a Content-Length with HTTP clients of other languages.

The clients are Go's net/http, Node's fetch, Java's HttpClient, and curl with a pipe.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from lab.benchmarks.proxy import run_proxies

FOLDER = Path(__file__).parent
BODY = bytes(range(256)) * 8192
PATH = "/v1/models/noop/jobs"
MEDIA_TYPE = "application/octet-stream"
_COMMANDS: dict[str, tuple[str, ...]] = {
    "go": ("go", "run", str(FOLDER / "chunked_client.go")),
    "node": ("node", str(FOLDER / "chunked_client.mjs")),
    "java": ("java", str(FOLDER / "ChunkedClient.java")),
    "curl": (
        "sh",
        "-c",
        'cat "$2" | curl -sS --fail-with-body -X POST -T - -H "content-type: $1" $0',
    ),
}
"""The command of each client. The URL, the media type and the path of a file are appended."""

PACKAGES = {"go": "golang-go", "node": "nodejs", "java": "default-jdk-headless", "curl": "curl"}
"""The clients, and the Debian package of each."""


def is_installed(client: str) -> bool:
    """Return whether the program of a client is on the search path."""
    return shutil.which(client) is not None


def send_chunked(client: str, url: str, folder: Path) -> str | None:
    """Submit 2 MiB to the model `noop` with a client.

    Returns:
        None if the body was sent in chunks, and the result has its digest; otherwise an error text.
    """
    file = folder / "body.bin"
    file.write_bytes(BODY)
    sent: list[bytes] = []
    port = urlsplit(url).port
    assert port is not None
    with run_proxies([port], 0.0, [lambda: (sent.append, lambda _: None)]) as [proxy]:
        run = subprocess.run(
            [*_COMMANDS[client], f"http://127.0.0.1:{proxy}{PATH}", MEDIA_TYPE, str(file)],
            env={**os.environ, "GO111MODULE": "off"},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    head = b"".join(sent).partition(b"\r\n\r\n")[0].lower()
    if b"\r\ntransfer-encoding: chunked" not in head or b"\r\ncontent-length:" in head:
        return f"the body was not sent in chunks: {head!r}; {run.stderr}"
    if run.returncode:
        return f"{run.stdout} {run.stderr}"
    digest = json.loads(run.stdout)["result"]["sha256"]
    expected = hashlib.sha256(BODY).hexdigest()
    return None if digest == expected else f"the digest is {digest}, expected {expected}"
