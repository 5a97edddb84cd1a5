"""Kill the emulators of Service Bus and Blob storage while JavaScript clients use them.

The clients run in the program `crash_client.mjs`, which uses Microsoft's SDKs. The program needs
Node.js 20 or newer, and npm. npm installs the SDKs into the folder that the environment variable
CONFORMANCE_FOLDER names. If this variable is not set, the SDKs are downloaded again for each run.
"""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

from blobs_tests.sdk.blob_servers import signature
from crash_tests.blob_ledger import BlobLedger
from crash_tests.blobs_crash import CONTAINER, RestartedBlobs, read_all
from crash_tests.crash_report import CrashOptions, CrashReport, plan_pauses
from crash_tests.message_ledger import MessageLedger
from crash_tests.restarts import kill_under_load
from crash_tests.servicebus_crash import RestartedServer, judge_messages
from javascript_sdks.conformance import install

_PROGRAM = Path(__file__).with_name("crash_client.mjs")
_STOP_SECONDS = 120.0
# A line may contain a whole blob.
_MAX_LINE_BYTES = 1024 * 1024

Operation = Callable[..., None]


class _JavaScriptLoad:
    """The running program `crash_client.mjs`. Its operations are recorded in a ledger."""

    def __init__(self, process: asyncio.subprocess.Process, ledger: object) -> None:
        self._process = process
        self._ledger = ledger
        self._stopped = asyncio.Event()
        self.outages: Counter[str] = Counter()

    async def listen(self) -> None:
        """Record the operations that the program prints, until the program ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            fields: dict[str, Any] = json.loads(line)
            operation = fields.pop("operation")
            if operation == "stopped":
                self._stopped.set()
            elif operation in {"outage", "repeated"}:
                self.outages[str(fields.get("code", operation))] += 1
            else:
                if isinstance(fields.get("content"), str):
                    fields["content"] = fields["content"].encode("latin-1")
                getattr(self._ledger, operation)(**fields)
        self._stopped.set()

    async def stop_writing(self) -> None:
        """Tell the program to start no more writes, and wait until its last write has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"stop\n")
        async with asyncio.timeout(_STOP_SECONDS):
            await self._stopped.wait()


@contextlib.asynccontextmanager
async def _running(
    folder: Path, kind: str, options: CrashOptions, connection_string: str, ledger: object
) -> AsyncIterator[_JavaScriptLoad]:
    """Run `crash_client.mjs` during the `with` block, and record its operations in `ledger`."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(shutil.copy(_PROGRAM, folder)),
        kind,
        str(options.seed),
        cwd=folder,
        env={**os.environ, "CONNECTION_STRING": connection_string},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    load = _JavaScriptLoad(process, ledger)
    listening = asyncio.create_task(load.listen())
    try:
        yield load
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await listening


async def run_javascript_crash(options: CrashOptions) -> CrashReport:
    """Kill the emulators of Service Bus and Blob storage while JavaScript clients use them.

    Return the counts and the violations of both services.
    """
    begun_at = time.monotonic()
    figures: dict[str, object] = {"seed": options.seed, "kills of each service": options.kills}
    violations: list[str] = []
    with tempfile.TemporaryDirectory(prefix="crash-javascript-") as temporary:
        packages = Path(os.environ.get("CONFORMANCE_FOLDER") or temporary) / "javascript"
        await asyncio.to_thread(install, packages)
        for run in (_crash_servicebus, _crash_blobs):
            ledger, outages = await run(Path(temporary), packages, options)
            prefix = "messages" if isinstance(ledger, MessageLedger) else "blobs"
            figures |= {f"{prefix}: {name}": count for name, count in ledger.counts.items()}
            figures[f"{prefix}: errors seen by the client"] = dict(outages) or 0
            violations += ledger.violations
    figures["seconds"] = round(time.monotonic() - begun_at)
    return CrashReport("javascript", figures, violations)


async def _crash_servicebus(
    folder: Path, packages: Path, options: CrashOptions
) -> tuple[MessageLedger, Counter[str]]:
    ledger = MessageLedger()
    restarted = RestartedServer(folder)
    try:
        await restarted.start()
        restarted.create_queue()
        connection_string = restarted.server.connection_string
        async with _running(packages, "servicebus", options, connection_string, ledger) as load:
            ledger.violations += await kill_under_load(
                restarted, plan_pauses(options), ledger.progress
            )
            await load.stop_writing()
            if not await restarted.wait_until_drained():
                counts = await restarted.count_messages()
                ledger.violations.append(f"the queue is not empty at the end: {counts}")
        await judge_messages(restarted, ledger)
    finally:
        await restarted.kill()
    return ledger, load.outages


async def _crash_blobs(
    folder: Path, packages: Path, options: CrashOptions
) -> tuple[BlobLedger, Counter[str]]:
    ledger = BlobLedger()
    restarted = RestartedBlobs(folder / "blobs")
    try:
        await restarted.start()
        assert restarted.server is not None
        url = f"{restarted.server.url}/{CONTAINER}?restype=container&{signature()}"
        async with httpx.AsyncClient() as client:
            (await client.put(url)).raise_for_status()
        connection_string = restarted.connection_string
        async with _running(packages, "blobs", options, connection_string, ledger) as load:
            ledger.violations += await kill_under_load(
                restarted, plan_pauses(options), ledger.progress
            )
            await load.stop_writing()
        await restarted.kill()
        await restarted.start()
        await read_all(restarted.connection_string, ledger)
    finally:
        await restarted.kill()
    return ledger, load.outages
