"""A server on loopback that serves inputs to the system under test, and receives its webhooks."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from lab.storm.soak_jobs import SoakJob, make_bytes

_HOST = "127.0.0.1"
_REFUSED_SHARE = 0.1
_MAX_INPUT_BYTES = 10 * 1024 * 1024
_SLOW_SECONDS = 60


@dataclass(frozen=True)
class WebhookCounts:
    """How many webhooks of a soak arrived, and for which jobs they are missing or wrong."""

    #: The number of finished jobs that have a webhook.
    expected: int
    #: The number of these jobs whose webhook arrived.
    delivered: int
    #: The number of webhooks that arrived again.
    repeated: int
    #: The numbers of the jobs whose webhook did not arrive.
    missing: list[int]
    #: The numbers of the jobs whose webhook differs from the finished job.
    wrong: list[int]
    #: The number of requests without a valid signature.
    unsigned: int


class Outside:
    """A server that receives webhooks, and serves inputs at normal speed or slowly."""

    def __init__(self, seed: int, secrets: Mapping[str, str]) -> None:
        """Create the server.

        Args:
            seed: Determines which webhooks are refused with 503.
            secrets: For each tenant, the secret with which the tenant's webhooks must be signed.
        """
        self._chance = random.Random(f"outside {seed}")
        self._webhooks = {tenant: Webhook(secret) for tenant, secret in secrets.items()}
        self._received: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._unsigned = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2 * _MAX_INPUT_BYTES)
        app.router.add_post("/hook/{tenant}/{number}", self._receive)
        app.router.add_get("/input/{seed}/{number}/{size}", self._send_input)
        app.router.add_get("/slow", self._send_slowly)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, 0)
        await site.start()
        self.url = f"http://{_HOST}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            self._webhooks[request.match_info["tenant"]].verify(body, headers)
        except (KeyError, WebhookVerificationError):
            self._unsigned += 1
            return web.Response(status=400)
        if self._chance.random() < _REFUSED_SHARE:
            return web.Response(status=503)
        self._received[request.match_info["number"]].append(json.loads(body))
        return web.Response(status=204)

    async def _send_input(self, request: web.Request) -> web.Response:
        seed, number, size = (int(request.match_info[key]) for key in ("seed", "number", "size"))
        return web.Response(body=make_bytes(seed, number, min(size, _MAX_INPUT_BYTES)))

    async def _send_slowly(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/octet-stream"})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(_SLOW_SECONDS):
                await response.write(b".")
                await asyncio.sleep(1)
        return response

    def judge(self, jobs: Iterable[SoakJob]) -> WebhookCounts:
        """Compare the received webhooks with the finished jobs that have a webhook.

        Return how many webhooks arrived, and for which jobs the webhook is missing or wrong.
        """
        expected = [job for job in jobs if job.has_webhook and job.final is not None]
        delivered = repeated = 0
        missing, wrong = [], []
        for job in expected:
            # A submit without a response may have created another job with the same webhook URL.
            found = [body for body in self._received[str(job.number)] if body["id"] == job.ids[0]]
            if not found:
                missing.append(job.number)
                continue
            delivered += 1
            repeated += len(found) - 1
            if any(body != job.final for body in found):
                wrong.append(job.number)
        return WebhookCounts(len(expected), delivered, repeated, missing, wrong, self._unsigned)
