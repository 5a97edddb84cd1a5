"""Test that host names for which DNS never answers do not delay the jobs of other tenants."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from contract.errors import ForbiddenAddress
from contract.guard import AddressGuard, Resolver
from contract.names import webhook_instance
from gateway.addresses import DNS_TIMEOUT_SECONDS, resolve_url, tenant_share
from gateway.errors import WebhookUndelivered
from gateway.rates import Rate
from gateway.webhooks.sender import WebhookSender
from tests.unit.gateway.api_keys import SETTING, bearer
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.webhook_delivery import deliver, receiver


class SilentDns:
    """Resolves each host to a public address; a host with `dead` in its name after `answer`."""

    def __init__(self) -> None:
        self._answered = threading.Event()

    def __call__(self, host: str, port: int) -> Sequence[str]:
        if "dead" in host:
            self._answered.wait(30)
        return ["93.184.215.14"]

    def answer(self) -> None:
        self._answered.set()


@pytest.fixture
async def silent() -> AsyncIterator[RunningGateway]:
    dns = SilentDns()
    async with open_gateway(
        resolver=Resolver(dns),
        api_keys=SETTING,
        webhook_secrets=(bytes(32),),
        url_input_rate=Rate(1000, 1),
    ) as gateway:
        yield gateway
    dns.answer()


async def submit(gateway: RunningGateway, name: str, **envelope: Any) -> httpx.Response:
    return await gateway.submit(json=envelope, headers=bearer(name))


async def test_look_ups_of_one_tenant_do_not_delay_another(silent: RunningGateway) -> None:
    attack = [
        asyncio.create_task(submit(silent, "a", input={"url": f"https://{number}.dead.test/"}))
        for number in range(40)
    ]
    await asyncio.wait(attack, return_when=asyncio.FIRST_COMPLETED)
    begun_at = time.monotonic()
    for envelope in (
        {"input": {"url": "https://good.test/"}},
        {"input": {"text": "x"}, "webhook": {"url": "https://good.test/"}},
        {"input": {"text": "x" * 100_000}},
    ):
        answer = await submit(silent, "b", **envelope)
        assert answer.status_code == 202, answer.text
    assert (await silent.http.get("/v1/health/ready")).status_code == 200
    assert not all(each.done() for each in attack), "a look-up of another tenant ended first"
    # The tenant with the dead names is also served, unless a request contains another host name.
    assert (await submit(silent, "a", input={"text": "x"})).status_code == 202
    answers = [await each for each in attack]
    # One after another, the look-ups would take eight times as long.
    assert time.monotonic() - begun_at < 4 * DNS_TIMEOUT_SECONDS
    found = sorted((each.status_code, each.json()["code"]) for each in answers)
    assert found == [(422, "invalid-input")] * 8 + [(429, "too-many-look-ups")] * 32
    refused = next(each for each in answers if each.status_code == 429)
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["retryable"] is True
    assert "input.url: 8 host names" in refused.json()["detail"]


async def test_silent_host_is_refused_like_an_unknown_host() -> None:
    dns = SilentDns()
    with pytest.raises(ForbiddenAddress) as refused:
        await resolve_url(AddressGuard(), Resolver(dns), "https://dead.test/", "a", seconds=0.01)
    dns.answer()
    assert str(refused.value) == "the host dead.test cannot be found on the public internet"


async def test_webhook_fails_with_too_many_look_ups() -> None:
    dns = SilentDns()
    resolver = Resolver(dns, max_count_of_a_share=1)
    sender = WebhookSender(AddressGuard(), resolver)
    resolver.start("dead.test", 443, tenant_share("a"))
    with pytest.raises(WebhookUndelivered) as failed:
        await sender.post("https://good.test/", {}, b"", tenant_share("a"), 15.0)
    dns.answer()
    assert failed.value.reason == "too-many-look-ups"


async def test_look_up_of_a_webhook_counts_for_its_tenant(silent: RunningGateway) -> None:
    hook = {"url": "https://good.test/"}
    job_id = (await submit(silent, "b", input={"text": "x"}, webhook=hook)).json()["id"]
    await silent.reply()
    assert webhook_instance(job_id) in silent.durable.runs
    await deliver(silent, job_id)
    assert receiver(silent).shares == [tenant_share("bolt")]
