"""Kill the Functions host while it runs a durable app, and check each orchestration."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from crash_tests.crash_report import CrashOptions, CrashReport, plan_pauses
from crash_tests.restarts import kill_under_load
from functions_tests.process.host_process import RunningHost, start_host
from local_ports import free_port

_CLIENTS = 6
_POLL_SECONDS = 0.05
_FINISH_SECONDS = 120.0
_INSTANCES = "/runtime/webhooks/durabletask/instances/"
_ENDED = {"Completed", "Failed", "Terminated", "Canceled"}


class RestartedHost:
    """A Functions host that is killed and started again on the same data."""

    def __init__(self, folder: Path, engine: str) -> None:
        self._data = folder / "data"
        self._app = shutil.copytree(
            Path(__file__).with_name("app"),
            folder / "app",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        self._options = ["--engine", engine, "--no-request-log"]
        if engine == "azure-storage":
            # What a killed host has dequeued is visible again after this time.
            self._options += ["--visibility-timeout", "2"]
        self._port = free_port()
        self._host: RunningHost | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start the host, and wait until it listens."""
        self._host = await start_host(
            self._app, self._data, "--port", str(self._port), *self._options
        )
        await self._host.logged("listening on http")

    async def kill(self) -> None:
        """Kill the host, and wait until it has ended."""
        host = self._host
        if host is not None and host.process.returncode is None:
            host.process.kill()
            await host.process.wait()
            await host.stop()


@dataclass
class CrashOrder:
    """An orchestration of the crash test, and its state as far as clients have seen it.

    `is_paid` is True if the host has accepted the event `payment`, or has answered that the
    orchestration has ended. `results` contains the results of activities in the history. `output`
    is None until a client has seen that the orchestration has ended.
    """

    id: str
    is_started: bool = False
    is_paid: bool = False
    results: set[str] = field(default_factory=set)
    output: Mapping[str, Any] | None = None


class OrchestrationLedger:
    """Compares each status that the host returns with the orchestration's earlier statuses.

    `violations` contains a sentence for each contradiction, such as a lost activity result.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def progress(self) -> list[int]:
        """Return a list with one number: how many activity results clients have seen so far."""
        return [self.counts["activity results"]]

    def see(self, order: CrashOrder, status: Mapping[str, Any] | None) -> None:
        """Compare a status and its history with what clients have seen of the orchestration before.

        Contradictions are added to `violations`. The status None means that the host does not know
        the orchestration.
        """
        self.counts["read"] += 1
        if status is None:
            if order.is_started:
                self._report(order, "was accepted, and the host does not know it")
            return
        results = _activity_results(status["historyEvents"])
        if lost := order.results - results:
            self._report(order, f"had the activity results {sorted(lost)}, and has them no more")
        self.counts["activity results"] += len(results - order.results)
        order.results |= results
        output = status["output"]
        is_ended = status["runtimeStatus"] in _ENDED
        if order.output is not None and (not is_ended or output != order.output):
            self._report(
                order, f"was completed, and is {status['runtimeStatus']} with the output {output}"
            )
        elif is_ended and order.output is None:
            self._check_output(order, status["runtimeStatus"], output)

    def _check_output(self, order: CrashOrder, status: str, output: Any) -> None:
        self.counts["completed"] += 1
        order.output = output
        if status != "Completed":
            self._report(order, f"is {status} with the output {output}")
            order.output = {}
            return
        if output["payment"] != {"of": order.id}:
            self._report(order, f"has the event {output['payment']}")
        if lost := order.results - {*output["tokens"]}:
            self._report(order, f"has completed without the activity results {sorted(lost)}")

    def _report(self, order: CrashOrder, problem: str) -> None:
        text = f"orchestration {order.id} {problem}"
        # Clients read an orchestration many times.
        if text not in self.violations:
            self.violations.append(text)


def _activity_results(history: list[dict[str, Any]]) -> set[str]:
    """Return the results of all completed activities in a history. Each result is unique."""
    return {str(event["Result"]) for event in history if event["EventType"] == "TaskCompleted"}


class _Callers:
    """Clients of the host. They start orchestrations, send them events, and read their statuses."""

    def __init__(self, url: str, ledger: OrchestrationLedger) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=30)
        self._ledger = ledger
        self._is_running = True
        self.orders: list[CrashOrder] = []
        self.errors = 0

    async def run(self, number: int) -> None:
        """Run one orchestration after another, each to its end, until `stop` is called."""
        count = 0
        while self._is_running:
            order = CrashOrder(f"order-{number}-{count}")
            count += 1
            self.orders.append(order)
            await self._run_order(order)

    def stop(self) -> None:
        """Tell the clients to start no more orchestrations."""
        self._is_running = False

    async def close(self) -> None:
        """Close the connections to the host."""
        await self._http.aclose()

    async def _run_order(self, order: CrashOrder) -> None:
        stopped_at: float | None = None
        while order.output is None:
            if not self._is_running and stopped_at is None:
                stopped_at = time.monotonic()
            if stopped_at is not None and time.monotonic() > stopped_at + _FINISH_SECONDS:
                self._ledger.violations.append(
                    f"orchestration {order.id} did not complete within {_FINISH_SECONDS:g} s: it "
                    f"is {'' if order.is_started else 'not '}started"
                )
                return
            try:
                await self._continue(order)
            except httpx.TransportError:
                self.errors += 1
            await asyncio.sleep(_POLL_SECONDS)

    async def _continue(self, order: CrashOrder) -> None:
        """Send the next request for an orchestration: start it, send its event, or read its status.

        The event is sent after a client has seen the first activity result.
        """
        if not order.is_started:
            # The host may know the orchestration although it was killed before it answered.
            is_known = await self._read(order)
            if not is_known:
                answer = await self._http.post(f"/api/orders/{order.id}")
                if answer.status_code != 202:
                    self.errors += 1
                    return
            order.is_started = True
            self._ledger.counts["started"] += 1
        elif not order.results or order.is_paid:
            await self._read(order)
        else:
            answer = await self._http.post(
                f"{_INSTANCES}{order.id}/raiseEvent/payment", json={"of": order.id}
            )
            if answer.status_code in {202, 410}:
                order.is_paid = True
                self._ledger.counts["events acknowledged"] += 1
            else:
                self.errors += 1

    async def _read(self, order: CrashOrder) -> bool:
        answer = await self._http.get(
            f"{_INSTANCES}{order.id}", params={"showHistory": True, "showHistoryOutput": True}
        )
        if answer.status_code not in {200, 202, 404}:
            self.errors += 1
            return False
        self._ledger.see(order, answer.json() if answer.status_code != 404 else None)
        return answer.status_code != 404

    async def read_all(self) -> None:
        """Read the status of each started orchestration one last time."""
        for order in self.orders:
            if order.is_started:
                await self._read(order)


async def run_functions_crash(options: CrashOptions) -> CrashReport:
    """Kill the Functions host under load several times, and return the counts and violations."""
    ledger = OrchestrationLedger()
    begun_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-functions-") as folder:
        restarted = RestartedHost(Path(folder), options.engine)
        callers = _Callers(restarted.url, ledger)
        try:
            await restarted.start()
            async with asyncio.TaskGroup() as group:
                for number in range(_CLIENTS):
                    group.create_task(callers.run(number))
                ledger.violations += await kill_under_load(
                    restarted, plan_pauses(options), ledger.progress
                )
                callers.stop()
            await restarted.kill()
            await restarted.start()
            await callers.read_all()
        finally:
            await restarted.kill()
            await callers.close()
    figures = {
        "seed": options.seed,
        "engine": options.engine,
        "kills": options.kills,
        **ledger.counts,
        "failed requests": callers.errors,
        "seconds": round(time.monotonic() - begun_at),
    }
    return CrashReport("functions", figures, ledger.violations)
