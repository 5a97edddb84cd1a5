"""A pool of workers, whose size depends on the number of queued messages (`loosely up --scale`)."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import httpx

from loosely.local import events
from loosely.local.autoscaler import Scaler
from loosely.local.errors import PartFailed, PartPortBusy, PortBusy
from loosely.local.parts import Part
from loosely.local.ports import next_free
from loosely.local.process_manager import ProcessManager
from loosely.local.scaling import ScaledObject

_HOST = "127.0.0.1"
_REQUEST_TIMEOUT_SECONDS = 5.0
_REPORT_UNKNOWN_AFTER_SECONDS = 20.0


class CountsUnavailable(Exception):
    """The number of messages in the queues cannot be read. The error's text states the reason."""


class QueueMonitor:
    """Asks the gateway for the lengths of the queues, and each worker for its jobs in flight."""

    def __init__(
        self, gateway_url: str, models: Iterable[str] = (), api_key: str | None = None
    ) -> None:
        """Create a monitor of the queues of these models, or of all."""
        self._url = f"{gateway_url}/v1/models"
        # The gateway lists the version 1 of a model by the name of the model.
        self._models = frozenset(name.removesuffix(":1") for name in models)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __aenter__(self) -> Self:
        # Do not use a proxy, because all processes run on this machine.
        self._client = httpx.AsyncClient(timeout=_REQUEST_TIMEOUT_SECONDS, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def count_messages(self, worker_ports: Iterable[int] = ()) -> list[int | None]:
        """Return the number of active messages in each model's queue, with those that workers hold.

        If the gateway counts only waiting messages, pass the ports of all workers' health endpoints
        to add those that they hold. A number is ``None`` if the gateway does not report it. Raises
        CountsUnavailable.
        """
        held = await self._count_held(worker_ports)
        try:
            response = await self._client.get(self._url, headers=self._headers)
            if response.status_code != httpx.codes.OK:
                raise CountsUnavailable(
                    f"{self._url} responded with HTTP status {response.status_code}"
                )
            models = response.json()["models"]
            return [
                None
                if model["queue_length"] is None
                else int(model["queue_length"]) + held[model["name"]]
                for model in models
                if not self._models or model["name"] in self._models
            ]
        except httpx.HTTPError as error:
            raise CountsUnavailable(
                f"the request to {self._url} failed: {error or type(error).__name__}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CountsUnavailable(f"{self._url} did not return a list of models") from error

    async def count_held_jobs(self, health_port: int) -> int | None:
        """Return how many jobs are in flight in a worker, or ``None`` if it does not respond."""
        held = await self._held_by_model(health_port)
        return None if held is None else held.total()

    async def _count_held(self, health_ports: Iterable[int]) -> Counter[str]:
        found = await asyncio.gather(*map(self._held_by_model, health_ports))
        return sum(filter(None, found), Counter())

    async def _held_by_model(self, health_port: int) -> Counter[str] | None:
        try:
            # A worker that is not ready responds with 503 and the same document.
            response = await self._client.get(f"http://{_HOST}:{health_port}/ready")
            models = response.json()["models"].items()
            return Counter({name.removesuffix(":1"): int(found["held"]) for name, found in models})
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class WorkerPoolPlan:
    """The workers of a pool, and the rules for the size of the pool."""

    #: A component that represents the whole pool in the output.
    part: Part
    scaling: ScaledObject
    monitor: QueueMonitor
    #: Returns the component of a worker with this number and this port of its health endpoint.
    make_worker: Callable[[int, int], Part]
    first_port: int
    #: Whether the lengths of the queues contain the messages that workers hold.
    counts_held: bool = True


@dataclass(slots=True)
class _PoolWorker:
    manager: ProcessManager
    port: int
    run: "asyncio.Task[None]"
    stop: "asyncio.Task[None] | None" = None

    @property
    def is_loading(self) -> bool:
        return not self.manager.has_been_ready.is_set()


class WorkerPool:
    """Starts workers when the queues need them, and stops idle workers that are not needed.

    Unlike Kubernetes, it stops only idle workers. They drain a job that arrives just before.
    """

    def __init__(
        self,
        plan: WorkerPoolPlan,
        manage: Callable[[Part], ProcessManager],
        notify: events.EventHandler,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Create the pool. ``manage`` returns the process manager of a component."""
        self._plan = plan
        self._manage = manage
        self._notify = notify
        self._clock = clock
        self._now = now
        self.has_been_ready = asyncio.Event()
        self._workers: dict[int, _PoolWorker] = {}
        self._kill = asyncio.Event()
        self._reported_size = 0
        self._started_at = self._counted_at = clock()
        self._is_unknown_reported = False
        self._has_had_ready_worker = False

    async def run(self) -> None:
        """Adjust the number of workers to the queues until this task is cancelled.

        Raises UpError if the workers refuse their settings, and none has ever been ready.
        """
        scaling = self._plan.scaling
        scaler = Scaler(scaling, self._clock(), replicas=scaling.min_replica_count)
        try:
            async with self._plan.monitor:
                while True:
                    self._remove_ended()
                    if self._clock() >= scaler.next_at_seconds:
                        await self._scale(scaler)
                    await self._wait(scaler.next_at_seconds - self._clock())
        except asyncio.CancelledError:
            raise  # cancelled by `stop`, which stops the workers itself
        except BaseException:
            await self._stop_workers()
            raise

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """Stop all workers, and wait until ``run``, the task of the method `run`, has ended.

        As soon as ``kill`` is set, the workers are killed.
        """
        run.cancel()
        forwarding = asyncio.create_task(self._forward_kill(kill))
        await asyncio.wait([run])
        await self._stop_workers()
        forwarding.cancel()

    async def halt(self, reason: str) -> None:
        """Stop all current workers until `resume` is called. Meanwhile, others may be started."""
        await asyncio.gather(*(worker.manager.halt(reason) for worker in self._active))

    def reload(self, reason: str) -> bool:
        """Return False, because the workers must be restarted."""
        return False

    def resume(self) -> None:
        """Start the workers again after `halt`."""
        for worker in self._workers.values():
            worker.manager.resume()

    def limit_logs(self) -> None:
        """Truncate each worker's log that is larger than its limit."""
        for worker in self._workers.values():
            worker.manager.limit_logs()

    @property
    def _active(self) -> list[_PoolWorker]:
        return [worker for worker in self._workers.values() if worker.stop is None]

    async def _scale(self, scaler: Scaler) -> None:
        """Count the messages, and start or stop workers according to the scaling rules."""
        counts = await self._count_messages()
        wanted = scaler.step(self._clock(), counts, self._plan.scaling.count_warm(self._now()))
        surplus = len(self._active) - wanted
        try:
            for _ in range(-surplus):
                self._start_worker()
        except PortBusy as error:
            # No port is free for another worker. The running workers continue.
            self._report_given_up(self._plan.part, error)
        if surplus > 0:
            await self._stop_idle(surplus)
        size = len(self._active)
        if size != self._reported_size:
            messages = sum(count for count in counts if count is not None)
            self._notify(events.PoolScaled(self._plan.part, self._reported_size, size, messages))
            self._reported_size = size
        self._report_readiness()

    async def _count_messages(self) -> list[int | None]:
        now = self._clock()
        try:
            ports = () if self._plan.counts_held else [each.port for each in self._workers.values()]
            counts = await self._plan.monitor.count_messages(ports)
        except CountsUnavailable as error:
            # While the system starts, the gateway does not respond yet. Do not report that.
            is_long = now - self._counted_at > _REPORT_UNKNOWN_AFTER_SECONDS
            if is_long and not self._is_unknown_reported:
                self._is_unknown_reported = True
                self._notify(
                    events.PartReport(self._plan.part, f"keeps its size: {error}", "yellow")
                )
            return [None]
        self._counted_at, self._is_unknown_reported = now, False
        return counts

    def _start_worker(self) -> None:
        number = next(n for n in range(1, len(self._workers) + 2) if n not in self._workers)
        port = next_free(self._plan.first_port, {w.port for w in self._workers.values()})
        manager = self._manage(self._plan.make_worker(number, port))
        self._workers[number] = _PoolWorker(manager, port, asyncio.create_task(manager.run()))

    async def _stop_idle(self, surplus: int) -> None:
        """Stop at most ``surplus`` idle workers: those never ready first, then the newest."""
        newest_first = self._active[::-1]
        held = await asyncio.gather(
            *(self._plan.monitor.count_held_jobs(worker.port) for worker in newest_first)
        )
        idle = [
            worker
            for worker, count in zip(newest_first, held, strict=True)
            # A worker that does not respond and has never been ready has received no job yet.
            if count == 0 or (count is None and worker.is_loading)
        ]
        idle.sort(key=lambda worker: not worker.is_loading)
        for worker in idle[:surplus]:
            self._stop_worker(worker)

    def _stop_worker(self, worker: _PoolWorker) -> "asyncio.Task[None]":
        if worker.stop is None:
            worker.stop = asyncio.create_task(worker.manager.stop(worker.run, self._kill))
        return worker.stop

    def _remove_ended(self) -> None:
        """Remove ended workers. Raises UpError for one if none has ever been ready."""
        for number, worker in list(self._workers.items()):
            self._has_had_ready_worker = self._has_had_ready_worker or not worker.is_loading
            if not worker.run.done() or (worker.stop and not worker.stop.done()):
                continue
            del self._workers[number]
            error = None if worker.run.cancelled() else worker.run.exception()
            if error is None or isinstance(error, PartPortBusy):
                continue  # the port was busy, so the next worker uses another port
            if not isinstance(error, PartFailed) or not self._has_had_ready_worker:
                raise error
            self._report_given_up(worker.manager.part, error)

    def _report_given_up(self, part: Part, error: Exception) -> None:
        self._notify(events.PartReport(part, f"could not be started: {error}", "red"))

    def _report_readiness(self) -> None:
        ready = sum(not worker.is_loading for worker in self._active)
        if ready >= self._plan.scaling.min_replica_count and not self.has_been_ready.is_set():
            seconds = self._clock() - self._started_at
            self._notify(events.PartReady(self._plan.part, seconds, is_restart=False))
            self.has_been_ready.set()

    async def _wait(self, seconds: float) -> None:
        """Wait for ``seconds``, or until a worker has ended if that is earlier."""
        runs = [worker.run for worker in self._workers.values()]
        if runs:
            await asyncio.wait(runs, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(max(seconds, 0.0))

    async def _stop_workers(self) -> None:
        await asyncio.gather(*(self._stop_worker(worker) for worker in self._workers.values()))

    async def _forward_kill(self, kill: asyncio.Event) -> None:
        await kill.wait()
        self._kill.set()
