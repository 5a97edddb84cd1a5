"""The attacks of a soak, a long load test: requests and messages of one hostile caller.

Each attack is limited in its number of requests, its bytes and its duration. For the jobs of other
callers, the report of the soak checks all promises of DESIGN.md. For a hostile job, the report
checks only that the job ends.
"""

import asyncio
import json
import random
import struct
import uuid
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from urllib.parse import urlsplit

from azure.servicebus import ServiceBusMessage

from lab.storm.jobs import JobKind
from lab.storm.soak_callers import ProducerSender, SoakCallers
from lab.storm.soak_jobs import SoakCaller, SoakJob

ATTACK_SECONDS = 20.0
#: DNS never answers look-ups of names in this domain. `resolver/sitecustomize.py` makes them hang.
SILENT_DOMAIN = ".soak.invalid"
_BODY_BYTES = 10_000_000
_SHORT_DEADLINE_SECONDS = 60


@dataclass
class Attacker:
    """A hostile caller with an API key, who also sends messages to queues without the gateway."""

    callers: SoakCallers
    caller: SoakCaller
    sender: ProducerSender
    gateway_url: str
    outside_url: str
    chance: random.Random
    register: Callable[[SoakJob], None]
    #: Returns the ids of other callers' jobs, which a producer may know.
    victims: Callable[[], Sequence[str]]
    _uploads: dict[str, str] = field(default_factory=dict)

    async def submit(
        self, model: str, content: bytes, media_type: str, *, wait_seconds: int = 0, query: str = ""
    ) -> None:
        """Submit a job with a hostile body.

        With `wait_seconds`, the gateway waits for the end of the job before it responds, but at
        most for this time. `query` is appended to the URL, for example `&upload=ID`. If the gateway
        accepts the job, the report of the soak checks that the job ends.
        """
        prefer = f"wait={wait_seconds}" if wait_seconds else "respond-async"
        path = f"/v1/models/{model}/jobs?deadline_seconds={_SHORT_DEADLINE_SECONDS}{query}"
        headers = {**self.caller.headers, "content-type": media_type, "prefer": prefer}
        job_id = await self.callers.attack(path, content, headers)
        if job_id is not None:
            job = SoakJob(0, JobKind.ASYNC, 0, label="hostile", model=model, caller=self.caller)
            job.is_hostile = True
            job.accept(job_id, job.label)
            self.register(job)

    async def submit_all(
        self, count: int, model: str, content: bytes, media_type: str, *, wait_seconds: int = 0
    ) -> None:
        """Submit `count` jobs with the same hostile body concurrently."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(
                    self.submit(model, content, media_type, wait_seconds=wait_seconds)
                )

    async def submit_url(self, url: str) -> None:
        """Submit a noop job whose input the worker must fetch from `url`."""
        content = json.dumps({"input": {"url": url}}).encode()
        await self.submit("noop", content, "application/json")

    async def upload_once(self, model: str, media_type: str, data: bytes) -> str:
        """Return the id of an upload for a model, which is made once."""
        if model not in self._uploads:
            self._uploads[model] = await self.callers.upload(self.caller, model, media_type, data)
        return self._uploads[model]


async def _send_messages_without_id(attacker: Attacker) -> None:
    # The SDK sends no message id unless the program sets one.
    await attacker.sender.send("noop", [ServiceBusMessage("not a request")] * 4)


async def _send_huge_pictures(attacker: Attacker) -> None:
    picture = await asyncio.to_thread(make_huge_picture)
    await attacker.submit_all(4, "classifier", picture, "image/png")


async def _send_long_sounds(attacker: Attacker) -> None:
    sound = await asyncio.to_thread(make_long_sound)
    upload = await attacker.upload_once("voice-activity", "audio/wav", sound)
    for _ in range(3):
        await attacker.submit("voice-activity", b"", "audio/wav", query=f"&upload={upload}")


async def _send_many_scans(attacker: Attacker) -> None:
    picture = await asyncio.to_thread(make_many_scans)
    await attacker.submit_all(2, "classifier", picture, "image/jpeg")


async def _name_slow_urls(attacker: Attacker) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(attacker.submit_url(f"{attacker.outside_url}/slow"))


async def _name_silent_hosts(attacker: Attacker) -> None:
    for _ in range(10):
        await attacker.submit_url(f"https://{uuid.uuid4().hex}{SILENT_DOMAIN}/")
        await asyncio.sleep(1.0)


async def _send_brackets(attacker: Attacker) -> None:
    await attacker.submit("noop", make_brackets(), "application/json")
    await attacker.submit("noop", b"[" * _BODY_BYTES, "application/json")


async def _send_markers(attacker: Attacker) -> None:
    content = b"\xff\xd8" + b"\xff\xe1\x00\x02" * (_BODY_BYTES // 4)
    await attacker.submit("classifier", content, "image/jpeg")


async def _wait_with_large_bodies(attacker: Attacker) -> None:
    content = attacker.chance.randbytes(_BODY_BYTES)
    await attacker.submit_all(16, "noop", content, "application/octet-stream", wait_seconds=15)


async def _forge_letters(attacker: Attacker) -> None:
    victims = attacker.victims()
    if not victims:
        return
    victim = attacker.chance.choice(victims)
    now = datetime.now(UTC)
    request = {
        "schema": 1,
        "job_id": victim,
        "model": "counting",
        "input": {"json": 1},
        "created_at": now.isoformat(),
        "deadline": (now + timedelta(seconds=_SHORT_DEADLINE_SECONDS)).isoformat(),
        "reply_to": {
            "url": f"{attacker.gateway_url}/v1/jobs/{victim}/reply"
            f"?queue=noop&expires={int(now.timestamp()) + 600}&token={'A' * 43}"
        },
    }
    await attacker.sender.send(
        "noop",
        [
            ServiceBusMessage("garbage", message_id=uuid.uuid4().hex, correlation_id=victim),
            ServiceBusMessage("garbage", message_id=f"{victim}-x", correlation_id=victim),
            ServiceBusMessage(
                json.dumps(request), message_id=uuid.uuid4().hex, correlation_id=victim
            ),
        ],
    )


async def _send_tensor_texts(attacker: Attacker) -> None:
    await attacker.submit_all(2, "tensor", make_tensor_texts(), "application/json")


async def _send_malformed_http(attacker: Attacker) -> None:
    infinite = b'{"input": {"json": 1e999}}'
    await attacker.submit("noop", infinite, "application/json")
    port = urlsplit(attacker.gateway_url).port
    assert port is not None
    begin = b"GET /v1/models HTTP/1.1\r\nHost: "
    async with asyncio.TaskGroup() as group:
        group.create_task(_send_raw(port, begin + b"[\r\n\r\n"))
        for _ in range(20):
            group.create_task(_send_raw(port, begin))  # the rest of the header never comes


async def _send_raw(port: int, content: bytes) -> None:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(content)
            await reader.read(1000)
        finally:
            writer.close()


@dataclass(frozen=True)
class Attack:
    """Hostile requests or messages of one kind. `model` is the model that the attack needs."""

    name: str
    run: Callable[[Attacker], Awaitable[None]]
    model: str = "noop"


ATTACKS = (
    Attack("messages-without-id", _send_messages_without_id),
    Attack("huge-pictures", _send_huge_pictures, "classifier"),
    Attack("long-sounds", _send_long_sounds, "voice-activity"),
    Attack("many-scans", _send_many_scans, "classifier"),
    Attack("slow-urls", _name_slow_urls),
    Attack("silent-dns", _name_silent_hosts),
    Attack("brackets", _send_brackets),
    Attack("markers", _send_markers, "classifier"),
    Attack("waiting-bodies", _wait_with_large_bodies),
    Attack("forged-letters", _forge_letters),
    Attack("tensor-texts", _send_tensor_texts, "tensor"),
    Attack("malformed-http", _send_malformed_http),
)


def choose_attacks(text: str, models: Sequence[str]) -> list[Attack]:
    """Return the attacks that the option `--hostile` of a soak selects.

    `text` is the value of the option: `all`, `none`, or names of attacks. `-NAME` selects all
    attacks except NAME. Attacks on models that are not in `models` are left out.

    Raises:
        ValueError: if a name is unknown.
    """
    by_name = {attack.name: attack for attack in ATTACKS}
    names = {"all": list(by_name), "none": []}.get(text)
    if names is None:
        names = [name.strip() for name in text.split(",") if name.strip()]
    left_out = {name.removeprefix("-") for name in names if name.startswith("-")}
    if left_out:
        names = [name for name in by_name if name not in left_out]
    unknown = sorted({*names, *left_out} - by_name.keys())
    if unknown:
        raise ValueError(
            f"unknown hostile input {', '.join(unknown)}: use all, none, or names from "
            f"{', '.join(by_name)}; -NAME selects all except this name"
        )
    return [by_name[name] for name in names if by_name[name].model in models]


@cache
def make_huge_picture(side: int = 7071) -> bytes:
    """Return a transparent square PNG that is small as a file and large in memory."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 4 * side)
    packed = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_chunk(name, data)
        for name, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    )


def _png_chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def make_long_sound(data_bytes: int = 58_000_000) -> bytes:
    """Return five minutes of silence as a WAV file: 16 bits, two channels, 48 kHz."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + data_bytes, b"WAVE", b"fmt ", 16, 1, 2, 48_000, 192_000, 4, 16),
        *(b"data", data_bytes),
    ) + bytes(data_bytes)


@cache
def make_many_scans(scans: int = 20_000, side: int = 2000) -> bytes:
    """Return a square, progressive JPEG that repeats its last scan `scans` times."""
    from PIL import Image  # noqa: PLC0415  not installed without the worker

    file = BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    begin = content.rindex(b"\xff\xda")
    last = content[begin:-2]
    return content[:begin] + last * scans + b"\xff\xd9"


@cache
def make_brackets(size_bytes: int = _BODY_BYTES) -> bytes:
    """Return JSON with an array of very many empty arrays."""
    return b'{"input": {"json": [' + b"[]," * (size_bytes // 3) + b"[]]}}"


@cache
def make_tensor_texts(size_bytes: int = 100_000) -> bytes:
    """Return JSON with one long and many short texts, which NumPy would pad to the longest."""
    longest = "x" * (size_bytes // 2)
    return json.dumps([longest, *["a"] * (size_bytes // 2 // 5)]).encode()
