"""The whole service in one process, on a clock that is moved by hand and without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from azure.storage.blob import generate_account_sas

from emulator.blobs.__main__ import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY
from emulator.blobs.authorization import AccountKey, Authenticator
from emulator.blobs.server import BlobApp
from emulator.blobs.store import BlobStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
Message = MutableMapping[str, Any]
DISCONNECT: Message = {"type": "http.disconnect"}


@dataclass(slots=True)
class HeldClock:
    """A clock that stands still until it is told."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass(slots=True)
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: int = 0

    @property
    def code(self) -> str:
        return self.headers.get("x-ms-error-code", "")


@dataclass(slots=True)
class World:
    """A running service, and requests to it that an account signature permits."""

    app: BlobApp
    store: BlobStore
    clock: HeldClock
    root: Path

    @property
    def content_files(self) -> list[Path]:
        return [path for path in (self.root / "content").rglob("*") if path.is_file()]

    @property
    def signature(self) -> str:
        """An account signature that permits everything."""
        expiry = self.clock.now + timedelta(days=365)
        return generate_account_sas(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, "sco", "rwdlac", expiry)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request for ``path`` (not encoded) with the account's signature."""
        raw = f"/{DEVELOPMENT_ACCOUNT}/{quote(path, safe='/')}"
        return await self.send(method, raw, f"{query}&{self.signature}", headers or {}, [body])

    async def send(
        self,
        method: str,
        raw_path: str,
        query: str,
        headers: dict[str, str],
        chunks: Iterable[bytes | Message] = (),
    ) -> Answer:
        """Send a request as it is; a chunk that is no bytes is an ASGI message."""
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
        answer = Answer()

        async def receive() -> MutableMapping[str, Any]:
            if messages:
                return messages.pop(0)
            # The client waits for its answer; the service stops listening when it has given it.
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

    async def put(self, path: str, body: bytes, **headers: str) -> Answer:
        """Put Blob."""
        return await self.ask("PUT", path, body, headers={"x-ms-blob-type": "BlockBlob", **headers})

    async def get(self, path: str, **headers: str) -> Answer:
        """Get Blob."""
        return await self.ask("GET", path, headers=headers)


@asynccontextmanager
async def open_world(root: Path) -> AsyncIterator[World]:
    """A service on the data directory ``root`` with one container, ``box``."""
    clock = HeldClock()
    store = BlobStore(root, clock)
    store.open()
    store.start()
    key = AccountKey(DEVELOPMENT_KEY)
    app = BlobApp(store, Authenticator(DEVELOPMENT_ACCOUNT, key, clock), clock)
    world = World(app, store, clock, root)
    try:
        await world.ask("PUT", "box", query="restype=container")
        yield world
    finally:
        await store.close()
