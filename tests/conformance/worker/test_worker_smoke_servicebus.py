"""Test the smoke test's checks of Service Bus."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from contract.settings import AzureEndpoint
from emulator.pytest_plugin import LocalServiceBus
from infra.smoke.findings import Finding, FindingResult
from infra.smoke.servicebus import CHECKS, Check, CheckedNamespace, CheckError, main, run_check
from tests.conformance.worker.worker_services import LocalServices, run_services

pytestmark = pytest.mark.thorough

RANGES, RELEASE, TOKEN, LETTER = (
    "Service Bus completes ranges of messages",
    "a released message counts no delivery",
    "a lock token is enough to abandon a message",
    "a dead letter has its reason among its properties",
)
DUPLICATES, COUNT = (
    "Service Bus drops a second message with the same id",
    "locked messages count as active",
)
CHECKS_BY_CLAIM = {check.claim: check for check in CHECKS}


@dataclass(frozen=True)
class EmulatorQueues:
    """Creates, counts and deletes the emulator's queues over its management API."""

    admin_url: str
    detects_duplicates: bool = True
    counts: list[int] | None = None
    """The numbers that `count_active` returns in this order, the last one again and again."""

    def create(self, name: str) -> None:
        namespace = LocalServiceBus("", self.admin_url)
        namespace.create_queue(
            name, LockDuration="PT60S", RequiresDuplicateDetection=self.detects_duplicates
        )

    def count_active(self, name: str) -> int:
        if self.counts is not None:
            return self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        text = httpx.get(f"{self.admin_url}/{name}").text
        return int(text.partition("ActiveMessageCount>")[2].partition("<")[0])

    def delete(self, name: str) -> None:
        httpx.delete(f"{self.admin_url}/{name}").raise_for_status()


@dataclass(frozen=True)
class NoQueues:
    """Raises an error if a queue is created, as az does without permission to create queues."""

    def create(self, name: str) -> None:
        raise CheckError("az servicebus queue create failed: AuthorizationFailed")

    def count_active(self, name: str) -> int:
        raise AssertionError("there is no queue")

    def delete(self, name: str) -> None:
        raise AssertionError("there is no queue")


def admin_url_of(services: LocalServices) -> str:
    return services.service_bus.probe.removesuffix("/health")


def broker_of(services: LocalServices, **options: Any) -> CheckedNamespace:
    queues = EmulatorQueues(admin_url_of(services), **options)
    return CheckedNamespace(AzureEndpoint(services.service_bus_url), queues, count_seconds=0.5)


@pytest.fixture(scope="module")
def faulty_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    """Run a faulty Service Bus emulator, on which four of the smoke test's checks must fail."""
    folder = tmp_path_factory.mktemp("faulty")
    module = "tests.conformance.worker.servicebus_with_faults"
    with run_services(folder, service_bus_module=module) as running:
        yield running


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.run.__name__)
def test_working_service_bus_passes(services: LocalServices, check: Check) -> None:
    finding = run_check(check, broker_of(services))
    assert finding.result == FindingResult.HELD, finding
    assert "delete the queue" not in finding.text
    queues = httpx.get(f"{admin_url_of(services)}/$Resources/queues").text
    assert "smoke-test-" not in queues


@pytest.mark.parametrize(
    ("claim", "result", "text"),
    [
        (RANGES, FindingResult.DOES_NOT_HOLD, "workers complete messages one by one"),
        (RELEASE, FindingResult.DOES_NOT_HOLD, "had 1 earlier deliveries"),
        (TOKEN, FindingResult.DOES_NOT_HOLD, "wait until their locks expire"),
        (LETTER, FindingResult.FAILED, "lacks DeadLetterReason and DeadLetterErrorDescription"),
    ],
)
def test_each_fault_is_reported(
    faulty_services: LocalServices, claim: str, result: FindingResult, text: str
) -> None:
    finding = run_check(CHECKS_BY_CLAIM[claim], broker_of(faulty_services))
    assert (finding.claim, finding.result) == (claim, result), finding
    assert text in finding.text


def test_kept_duplicates_fail(services: LocalServices) -> None:
    finding = run_check(CHECKS_BY_CLAIM[DUPLICATES], broker_of(services, detects_duplicates=False))
    assert finding.result == FindingResult.FAILED
    assert finding.text.startswith("3 messages")


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([2, 0], "0 of 2 locked messages count as active"),
        # Azure updates the count late.
        ([0, 2, 2, 0], "0 of 2 locked messages count as active"),
        ([0], "0 of 2 sent messages count as active"),
    ],
)
def test_uncounted_locked_messages_fail(
    services: LocalServices, counts: list[int], text: str
) -> None:
    queues = EmulatorQueues(admin_url_of(services), counts=[*counts])
    endpoint = AzureEndpoint(services.service_bus_url)
    finding = run_check(CHECKS_BY_CLAIM[COUNT], CheckedNamespace(endpoint, queues, 3.0))
    assert finding.result == FindingResult.FAILED
    assert finding.text == text


def test_check_without_a_queue_is_not_applicable(services: LocalServices) -> None:
    broker = CheckedNamespace(AzureEndpoint(services.service_bus_url), NoQueues(), 0.5)
    finding = run_check(CHECKS[0], broker)
    text = "az servicebus queue create failed: AuthorizationFailed"
    assert finding == Finding(CHECKS[0].claim, FindingResult.NOT_APPLICABLE, text)


def test_silent_namespace_fails(services: LocalServices) -> None:
    address = "Endpoint=sb://localhost:9;SharedAccessKeyName=a;SharedAccessKey=b;"
    endpoint = AzureEndpoint(address + "UseDevelopmentEmulator=true;")
    finding = run_check(
        CHECKS[0], CheckedNamespace(endpoint, EmulatorQueues(admin_url_of(services)), 0.5)
    )
    assert finding.result == FindingResult.FAILED
    assert finding.text.startswith("a message could not be sent: ")


def test_send_exits_with_3_without_the_queue(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICE_BUS_CONNECTION", services.service_bus_url)
    assert main(["send", "--host", "unused", "--queue", "nowhere", "--id", "stray"]) == 3
    assert "a message could not be sent" in capfd.readouterr().err


def test_finding_is_one_line_with_tabs() -> None:
    finding = Finding("a claim", FindingResult.HELD, "two\nlines\tand a tab")
    assert finding.line == "held\ta claim\ttwo lines and a tab"
