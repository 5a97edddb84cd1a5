"""Run the Blob service in the process of the test, with a manual clock and without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from azure.storage.blob import generate_account_sas

from emulator.blobs.__main__ import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY
from emulator.blobs.authorization import AccountKey, Authenticator
from emulator.blobs.cors import CorsRule
from emulator.blobs.server import BlobApp
from emulator.blobs.store import AccountStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
Message = MutableMapping[str, Any]
DISCONNECT: Message = {"type": "http.disconnect"}


@dataclass(slots=True)
class ManualClock:
    """A clock whose time changes only when a test changes it."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass(slots=True)
class RecordedResponse:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: int = 0

    @property
    def code(self) -> str:
        return self.headers.get("x-ms-error-code", "")


@dataclass(slots=True)
class RunningBlobService:
    """A running Blob service, with methods that send requests to it."""

    app: BlobApp
    store: AccountStore
    clock: ManualClock
    root: Path

    @property
    def content_files(self) -> list[Path]:
        return [path for path in (self.root / "content").rglob("*") if path.is_file()]

    @property
    def signature(self) -> str:
        """Return the query string of an account SAS that permits all operations."""
        expiry = self.clock.now + timedelta(days=365)
        return generate_account_sas(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, "sco", "rwdlact", expiry)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
    ) -> RecordedResponse:
        """Send a request with an account SAS that permits all operations; return the response."""
        raw = f"/{DEVELOPMENT_ACCOUNT}/{quote(path, safe='/')}"
        return await self.send(method, raw, f"{query}&{self.signature}", headers or {}, [body])

    async def send(
        self,
        method: str,
        raw_path: str,
        query: str,
        headers: dict[str, str],
        chunks: Iterable[bytes | Message] = (),
    ) -> RecordedResponse:
        """Send a request without a SAS, and return the response.

        Each item of `chunks` is either a part of the body or an ASGI message. The service receives
        the items one after the other.
        """
        chunks = list(chunks)
        length = sum(len(chunk) for chunk in chunks if isinstance(chunk, bytes))
        all_headers = {"content-length": str(length), **headers}
        scope = {
            "type": "http",
            "method": method,
            "raw_path": raw_path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in all_headers.items()
            ],
            "client": ("127.0.0.1", 1),
        }
        messages = [
            {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
            if isinstance(chunk, bytes)
            else chunk
            for number, chunk in enumerate(chunks, 1)
        ]
        answer = RecordedResponse()

        async def receive() -> MutableMapping[str, Any]:
            if messages:
                return messages.pop(0)
            # Do not return: the client stays connected and waits for the response.
            never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            return await never

        async def collect(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {
                    name.decode("latin-1"): value.decode("latin-1")
                    for name, value in message["headers"]
                }
            else:
                answer.body += message.get("body", b"")
                answer.pieces += 1

        await self.app(scope, receive, collect)
        return answer

    async def put(self, path: str, body: bytes, **headers: str) -> RecordedResponse:
        """Upload a block blob with the content `body` (Put Blob), and return the response."""
        return await self.request(
            "PUT", path, body, headers={"x-ms-blob-type": "BlockBlob", **headers}
        )

    async def get(self, path: str, **headers: str) -> RecordedResponse:
        """Download a blob (Get Blob), and return the response."""
        return await self.request("GET", path, headers=headers)


@asynccontextmanager
async def open_service(
    root: Path, cors_rules: Sequence[CorsRule] | None = None
) -> AsyncIterator[RunningBlobService]:
    """Yield a running service that has the data directory `root` and a container named `box`.

    If `cors_rules` is not None, these rules replace the account's CORS rules when the service
    starts.
    """
    clock = ManualClock()
    store = AccountStore(root, clock)
    store.open()
    if cors_rules is not None:
        store.replace_cors_rules(cors_rules)
    store.start()
    key = AccountKey(DEVELOPMENT_KEY)
    app = BlobApp(store, Authenticator(DEVELOPMENT_ACCOUNT, key, clock), clock)
    service = RunningBlobService(app, store, clock, root)
    try:
        await service.request("PUT", "box", query="restype=container")
        yield service
    finally:
        await store.close()
