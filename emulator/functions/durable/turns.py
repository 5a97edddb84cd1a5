"""One turn of an instance: new messages in, the orchestrator's commands out, one commit."""

import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted

from emulator.functions.durable import history
from emulator.functions.durable.actions import Command, ContinueAsNew
from emulator.functions.durable.errors import ActionInvalid
from emulator.functions.durable.history import EventType
from emulator.functions.durable.model import Instance, Message, Status
from emulator.functions.durable.protocol import TurnState, context_json, read_failure, read_state
from emulator.functions.durable.scheduling import Scheduler, unknown_orchestrator
from emulator.functions.durable.turn import (
    FAILURES,
    Endings,
    Turn,
    begin,
    take,
    termination_of,
)
from emulator.functions.runner import FunctionFailure, FunctionRunner


class Turns:
    """Makes turns, one at a time for each instance; the engine sees to that."""

    def __init__(
        self,
        now: Callable[[], int],
        history_of: Callable[[Instance], list[str]],
        runner: FunctionRunner,
        scheduler: Scheduler,
        endings: Endings,
    ) -> None:
        self._now = now
        self._history_of = history_of
        self._runner = runner
        self._scheduler = scheduler
        self._endings = endings

    async def make(self, instance: Instance) -> None:
        """Make one turn; if it raises AppUnavailable or StoreUnavailable, nothing has happened."""
        termination = termination_of(instance)
        batch = list(instance.mailbox) if termination else take(instance)
        if termination:
            instance.mailbox.clear()
        try:
            if termination is None:
                await self._orchestrate(instance, batch)
            else:
                await self._terminate(instance, batch, termination)
        except BaseException:
            instance.mailbox.extendleft(reversed(batch))
            raise

    async def _orchestrate(self, instance: Instance, batch: list[Message]) -> None:
        turn = begin(instance, batch, self._now())
        commands: list[Command] = []
        for message in batch:
            task = message.task
            if message.kind is EventType.EXECUTION_STARTED:
                continue  # `begin` wrote it
            if message.kind is EventType.TIMER_FIRED:
                assert task is not None
                if not turn.shim.awaits_timer(task):
                    continue
            turn.events.append(message.text)
            if task is not None:
                failed = message.kind in FAILURES
                commands += turn.shim.settle(task, failed=failed, now=turn.now)
        state = await self._run_code(turn)
        try:
            commands += turn.shim.advance(state.actions)
            self._scheduler.apply(turn, commands, ends=state.done or state.error is not None)
        except ActionInvalid as problem:
            state = TurnState((), done=False, error=str(problem))
        again = next((c for c in commands if isinstance(c, ContinueAsNew)), None)
        if state.error is not None:
            text = f"Orchestrator function '{instance.name}' failed: {state.error}"
            await self._endings.finish(turn, Status.FAILED, quoted(text), text, state.custom_status)
        elif again is not None:
            await self._endings.continue_as_new(turn, again, state.custom_status)
        elif state.done:
            await self._endings.finish(
                turn, Status.COMPLETED, state.output, "", state.custom_status
            )
        else:
            await self._endings.go_on(turn, state.custom_status)

    async def _run_code(self, turn: Turn) -> TurnState:
        instance = turn.instance
        if instance.name not in self._runner.orchestrators:
            return TurnState((), False, error=unknown_orchestrator(self._runner, instance.name))
        context = context_json(
            instance.id,
            instance.parent.id if instance.parent else None,
            instance.input,
            self._history_of(instance),
            turn.news,
            replaying=instance.turn > 0,
        )
        try:
            return read_state(await self._runner.orchestrate(instance.name, context))
        except FunctionFailure as failure:
            return read_failure(failure.message)
        except ActionInvalid as problem:
            return TurnState((), done=False, error=str(problem))

    async def _terminate(
        self, instance: Instance, batch: list[Message], termination: Message
    ) -> None:
        turn = begin(instance, batch, self._now())
        turn.events.append(
            history.event(
                EventType.EXECUTION_TERMINATED, turn.now, rest=f',"Input":{termination.text}'
            )
        )
        reason = str(json.loads(termination.text))
        await self._endings.finish(
            turn, Status.TERMINATED, termination.text, reason, instance.custom_status
        )
