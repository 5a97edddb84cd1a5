"""Kill the Blob emulator while clients of Microsoft's SDK use it, and check each blob."""

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobBlock
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from blobs_tests.sdk.blob_servers import Server, run_emulator
from crash_tests.blob_ledger import ABSENT, BlobLedger, make_content
from crash_tests.crash_report import CrashOptions, CrashReport, plan_pauses
from crash_tests.restarts import kill_under_load
from local_ports import free_port

CONTAINER = "crash"
_WRITERS, _BLOBS_OF_A_WRITER, _COUNTERS, _COUNTER_WRITERS = 4, 12, 2, 2
_SIZES_BYTES = (100, 3_000, 60_000, 200_000)
_BLOCK_BYTES = 50_000
_RETRY_SECONDS = 0.02


class RestartedBlobs:
    """A Blob emulator that is killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self._data, self._port = folder / "data", free_port()
        self._life = contextlib.ExitStack()
        self.server: Server | None = None

    async def start(self) -> None:
        """Start the emulator, and wait until it is ready."""
        running = run_emulator(self._data, port=self._port)
        self.server = await asyncio.to_thread(self._life.enter_context, running)

    async def kill(self) -> None:
        """Kill the emulator, and wait until it has ended."""
        await asyncio.to_thread(self._life.close)

    @property
    def connection_string(self) -> str:
        """The connection string of the emulator, which is the same after each start."""
        assert self.server is not None
        return self.server.connection_string


class _BlobLoad:
    """Clients that write, read, list and delete blobs, and record their operations."""

    def __init__(self, container: ContainerClient, ledger: BlobLedger, seed: int) -> None:
        self._container = container
        self._ledger = ledger
        self._seed = seed
        self._is_running = True
        self.errors = 0
        self.increments: dict[str, list[int]] = {f"counter-{n}": [0, 0] for n in range(_COUNTERS)}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the clients during the `with` block."""
        async with asyncio.TaskGroup() as group:
            for number in range(_WRITERS):
                group.create_task(self._write_until_stopped(number))
            for name in self.increments:
                for _ in range(_COUNTER_WRITERS):
                    group.create_task(self._count_until_stopped(name))
            try:
                yield
            finally:
                self._is_running = False

    async def _write_until_stopped(self, number: int) -> None:
        chance = random.Random(f"writer {number} {self._seed}")
        versions = 0
        while self._is_running:
            name = f"writer-{number}-{chance.randrange(_BLOBS_OF_A_WRITER)}"
            try:
                # What a client has not seen acknowledged, it reads before it continues.
                if self._ledger.is_in_doubt(name) or chance.random() < 0.3:
                    await _read(self._container, name, self._ledger)
                elif chance.random() < 0.1:
                    prefix = f"writer-{number}-"
                    names = [
                        each
                        async for each in self._container.list_blob_names(name_starts_with=prefix)
                    ]
                    self._ledger.list(prefix, names)
                elif self._ledger.version(name) != ABSENT and chance.random() < 0.2:
                    self._ledger.begin_write(name, ABSENT)
                    await self._container.delete_blob(name)
                    self._ledger.confirm_write(name, ABSENT, None)
                else:
                    versions += 1
                    await self._write(name, versions, chance)
            except (ResourceModifiedError, ResourceExistsError):
                self._ledger.refuse_write(name)
            except AzureError:
                self.errors += 1
                await asyncio.sleep(_RETRY_SECONDS)

    async def _write(self, name: str, version: int, chance: random.Random) -> None:
        content = make_content(name, version, chance.choice(_SIZES_BYTES))
        etag = self._ledger.etag(name)
        conditions: dict[str, object] = {"overwrite": True}
        if etag is None:
            conditions = {"overwrite": False}  # If-None-Match: *
        elif chance.random() < 0.6:
            conditions |= {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        self._ledger.begin_write(name, version)
        blob = self._container.get_blob_client(name)
        if len(content) > _BLOCK_BYTES and chance.random() < 0.5:
            blocks = []
            for at in range(0, len(content), _BLOCK_BYTES):
                blocks.append(BlobBlock(f"{at:08}"))
                await blob.stage_block(blocks[-1].id, content[at : at + _BLOCK_BYTES])
            conditions.pop("overwrite")
            answer = await blob.commit_block_list(blocks, **conditions)  # type: ignore[arg-type]
        else:
            answer = await blob.upload_blob(content, **conditions)  # type: ignore[arg-type]
        self._ledger.confirm_write(name, version, str(answer["etag"]))

    async def _count_until_stopped(self, name: str) -> None:
        """Increment the number in a blob that several writers share, until the load is stopped.

        Each write is conditional on the ETag that was read with the number. If another writer has
        changed the blob after this read, the write fails, and the number is read again.
        """
        blob = self._container.get_blob_client(name)
        while self._is_running:
            try:
                download = await blob.download_blob()
                number = int(await download.readall()) + 1
                try:
                    self.increments[name][1] += 1
                    await blob.upload_blob(
                        str(number),
                        overwrite=True,
                        etag=download.properties.etag,
                        match_condition=MatchConditions.IfNotModified,
                    )
                except ResourceModifiedError:
                    self.increments[name][1] -= 1
                else:
                    self.increments[name][0] += 1
                    self.increments[name][1] -= 1
            except AzureError:
                self.errors += 1
                await asyncio.sleep(_RETRY_SECONDS)

    async def judge_counters(self) -> None:
        """Check that the number in each counter blob includes all acknowledged increments.

        The number may also include attempted increments that the service has not acknowledged. A
        number that is too small or too large is recorded as a violation.
        """
        for name, (acknowledged, in_doubt) in self.increments.items():
            found = int(await (await self._container.download_blob(name)).readall())
            if not acknowledged <= found <= acknowledged + in_doubt:
                self._ledger.violations.append(
                    f"the blob {name} is {found} after {acknowledged} acknowledged increments and "
                    f"{in_doubt} in doubt"
                )


async def _read(container: ContainerClient, name: str, ledger: BlobLedger) -> None:
    """Read a blob, and let the ledger compare the content and the ETag with the recorded writes."""
    try:
        download = await container.get_blob_client(name).download_blob()
        content = await download.readall()
    except ResourceNotFoundError:
        ledger.read(name, None, None)
    else:
        ledger.read(name, content, download.properties.etag)


async def read_all(connection_string: str, ledger: BlobLedger) -> None:
    """Read and list all blobs that clients have written, and check the results with the ledger.

    The service must be running. A blob that cannot be read is recorded as a violation.
    """
    async with BlobServiceClient.from_connection_string(connection_string) as service:
        container = service.get_container_client(CONTAINER)
        for name in ledger.names():
            try:
                await _read(container, name, ledger)
            except AzureError as error:
                text = str(error).splitlines()[0]
                ledger.violations.append(f"the blob {name} cannot be read: {text}")
        listed = container.list_blob_names(name_starts_with="writer-")
        ledger.list("writer-", [name async for name in listed])


async def run_blobs_crash(options: CrashOptions) -> CrashReport:
    """Kill the Blob emulator under load several times, and return the counts and violations."""
    ledger = BlobLedger()
    begun_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-blobs-") as folder:
        restarted = RestartedBlobs(Path(folder))
        try:
            await restarted.start()
            # Without retries, the ledger knows the end of each request.
            async with BlobServiceClient.from_connection_string(
                restarted.connection_string, retry_total=0
            ) as service:
                container = await service.create_container(CONTAINER)
                load = _BlobLoad(container, ledger, options.seed)
                for name in load.increments:
                    await container.upload_blob(name, b"0")
                async with load.running():
                    ledger.violations += await kill_under_load(
                        restarted, plan_pauses(options), ledger.progress
                    )
                await restarted.kill()
                await restarted.start()
                await read_all(restarted.connection_string, ledger)
                await load.judge_counters()
        finally:
            await restarted.kill()
    increments = list(load.increments.values())
    figures = {
        "seed": options.seed,
        "kills": options.kills,
        **ledger.counts,
        "increments": sum(acknowledged for acknowledged, _ in increments),
        "increments in doubt": sum(in_doubt for _, in_doubt in increments),
        "outages seen by clients": load.errors,
        "seconds": round(time.monotonic() - begun_at),
    }
    return CrashReport("blobs", figures, ledger.violations)
