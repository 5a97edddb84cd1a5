"""Worker processes whose number follows the queues: each a part with a keeper of its own."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from loosely.capacity.autoscaler import Scaler
from loosely.capacity.scaling import ScaledObject
from loosely.up import events
from loosely.up.errors import PartFailed, PartPortBusy
from loosely.up.keeper import Keeper
from loosely.up.parts import Part
from loosely.up.ports import next_free
from loosely.up.workload import Uncounted, Workload

_BLIND_AFTER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Which processes, how many, by what.

    ``part`` stands for all of them where they are shown as one.
    """

    part: Part
    scaling: ScaledObject
    workload: Workload
    #: Makes the part with this number, on this port.
    replica: Callable[[int, int], Part]
    #: Ports are taken from here on, as far as they are free.
    first_port: int


@dataclass(slots=True)
class _Replica:
    keeper: Keeper
    port: int
    run: "asyncio.Task[None]"
    leaving: "asyncio.Task[None] | None" = None

    @property
    def is_loading(self) -> bool:
        return not self.keeper.has_been_ready.is_set()


class Fleet:
    """Starts replicas when the queues ask for them, and stops those that have nothing to do.

    Kubernetes takes any pod; here a busy one stays until it is idle, and who gets a job just
    then still finishes it: it is asked to drain.
    """

    def __init__(
        self,
        plan: FleetPlan,
        keep: Callable[[Part], Keeper],
        tell: events.Watcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``keep`` makes the keeper of a part."""
        self._plan = plan
        self._keep = keep
        self._tell = tell
        self._clock = clock
        self.has_been_ready = asyncio.Event()
        self._replicas: dict[int, _Replica] = {}
        self._kill = asyncio.Event()
        self._told_size = 0
        self._begun_at = self._counted_at = clock()
        self._is_blind = False
        self._has_worked = False

    async def run(self) -> None:
        """Follow the queues until cancelled.

        Raises:
            UpError: not even the first replica can be brought to readiness, or no port is free.
        """
        scaling = self._plan.scaling
        scaler = Scaler(scaling, self._clock(), replicas=scaling.min_replica_count)
        try:
            async with self._plan.workload:
                while True:
                    self._clear_ended()
                    if self._clock() >= scaler.next_at_seconds:
                        await self._follow(scaler)
                    await self._rest(scaler.next_at_seconds - self._clock())
        except asyncio.CancelledError:
            raise  # by stop, which ends the replicas itself
        except BaseException:
            await self._stop_replicas()
            raise

    async def stop(self, run: "asyncio.Task[None]", kill: asyncio.Event) -> None:
        """End all replicas at once, and ``run``: asked first, forced when ``kill`` is set."""
        run.cancel()
        forwarding = asyncio.create_task(self._forward(kill))
        await asyncio.wait([run])
        await self._stop_replicas()
        forwarding.cancel()

    def cut_logs(self) -> None:
        """Keep the logs in their bounds."""
        for replica in self._replicas.values():
            replica.keeper.cut_logs()

    @property
    def _staying(self) -> list[_Replica]:
        return [replica for replica in self._replicas.values() if replica.leaving is None]

    async def _follow(self, scaler: Scaler) -> None:
        counts = await self._counts()
        wanted = scaler.step(self._clock(), counts)
        surplus = len(self._staying) - wanted
        for _ in range(-surplus):
            self._start()
        if surplus > 0:
            await self._dismiss(surplus)
        size = len(self._staying)
        if size != self._told_size:
            known = [count for count in counts if count is not None]
            self._tell(events.Scaled(self._plan.part, self._told_size, size, sum(known)))
            self._told_size = size
        self._look_whether_ready()

    async def _counts(self) -> list[int | None]:
        now = self._clock()
        try:
            counts = await self._plan.workload.counts()
        except Uncounted as error:
            # At the start the gateway is not there yet, which is no news.
            if now - self._counted_at > _BLIND_AFTER_SECONDS and not self._is_blind:
                self._is_blind = True
                self._tell(events.Blind(self._plan.part, str(error)))
            return [None]
        self._counted_at, self._is_blind = now, False
        return counts

    def _start(self) -> None:
        number = next(n for n in range(1, len(self._replicas) + 2) if n not in self._replicas)
        port = next_free(self._plan.first_port, {r.port for r in self._replicas.values()})
        keeper = self._keep(self._plan.replica(number, port))
        self._replicas[number] = _Replica(keeper, port, asyncio.create_task(keeper.run()))

    async def _dismiss(self, surplus: int) -> None:
        """Let so many go that have nothing to do, the newest first; the others later."""
        staying = self._staying[::-1]
        held = await asyncio.gather(*(self._plan.workload.held(r.port) for r in staying))
        idle = [
            replica
            for replica, count in zip(staying, held, strict=True)
            # Who has never been ready and says nothing has not come to receive.
            if count == 0 or (count is None and replica.is_loading)
        ]
        idle.sort(key=lambda replica: not replica.is_loading)
        for replica in idle[:surplus]:
            self._leave(replica)

    def _leave(self, replica: _Replica) -> "asyncio.Task[None]":
        if replica.leaving is None:
            stopping = replica.keeper.stop(replica.run, self._kill)
            replica.leaving = asyncio.create_task(stopping)
        return replica.leaving

    def _clear_ended(self) -> None:
        for number, replica in list(self._replicas.items()):
            self._has_worked = self._has_worked or not replica.is_loading
            if not replica.run.done() or (replica.leaving and not replica.leaving.done()):
                continue
            del self._replicas[number]
            error = None if replica.run.cancelled() else replica.run.exception()
            if error is None or isinstance(error, PartPortBusy):
                continue  # where a port was taken, the next try takes another
            if not isinstance(error, PartFailed) or not self._has_worked:
                raise error
            self._tell(events.Failed(replica.keeper.part, str(error)))

    def _look_whether_ready(self) -> None:
        ready = sum(not replica.is_loading for replica in self._staying)
        if ready >= self._plan.scaling.min_replica_count and not self.has_been_ready.is_set():
            seconds = self._clock() - self._begun_at
            self._tell(events.Ready(self._plan.part, seconds, again=False))
            self.has_been_ready.set()

    async def _rest(self, seconds: float) -> None:
        """Wait until there is something to decide, or a replica has ended."""
        runs = [replica.run for replica in self._replicas.values()]
        if runs:
            await asyncio.wait(runs, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(max(seconds, 0.0))

    async def _stop_replicas(self) -> None:
        await asyncio.gather(*(self._leave(replica) for replica in self._replicas.values()))

    async def _forward(self, kill: asyncio.Event) -> None:
        await kill.wait()
        self._kill.set()
