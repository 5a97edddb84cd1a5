"""Run one episode of an instance: replay the orchestrator function with new messages.

    EpisodeRunner.run   take messages ─▶ run the orchestrator ─▶ schedule its commands ─▶ checkpoint

The steps are the same in the default engine and in the azure-storage engine. Each engine has its
own implementation of two interfaces: an `Outbox` sends the activities, timers and
sub-orchestrations that an episode schedules, and an `EpisodeCheckpointer` saves the outcome of the
episode.

Source: DurableTask.Core's `TaskOrchestrationDispatcher`.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Protocol

from emulator.functions.durable import history
from emulator.functions.durable.errors import (
    ActionInvalid,
    NonDeterministic,
)
from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import (
    OrchestrationInstance,
    Parent,
    Status,
    TaskMessage,
    make_id,
)
from emulator.functions.durable.protocol import (
    CancelTimer,
    Command,
    ContinueAsNew,
    EpisodeState,
    ScheduleActivity,
    StartChild,
    StartTimer,
    context_json,
    read_failure,
    read_state,
)
from emulator.functions.durable.records import TimerRow
from emulator.functions.durable.runner import (
    FunctionRunner,
    describe_unknown_activity,
    describe_unknown_orchestrator,
    find_name,
)
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement
from emulator.functions.errors import FunctionFailure

_WITHOUT_EVENT = {EventType.EXECUTION_STARTED, EventType.EXECUTION_TERMINATED}
FAILURES = frozenset({EventType.TASK_FAILED, EventType.CHILD_FAILED})


@dataclass(slots=True)
class Episode:
    """An episode in progress.

    `shim` is a copy of the instance's task numbers. `statements` send the messages of the episode,
    and `effects` are called after the episode is saved.
    """

    instance: OrchestrationInstance
    batch: list[TaskMessage]
    now: int
    shim: Shim
    events: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    effects: list[Callable[[], None]] = field(default_factory=list)
    children: list[OrchestrationInstance] = field(default_factory=list)

    @property
    def new_events(self) -> str:
        """Return the events that the episode has recorded, as JSON texts joined by commas."""
        return ",".join(self.events)


class EpisodeCheckpointer(Protocol):
    """Saves episodes, with one method for each way in which an episode can end."""

    async def save_waiting(self, episode: Episode, custom_status: str | None) -> None:
        """Save an episode after which the instance waits for messages."""
        ...

    async def save_finished(
        self,
        episode: Episode,
        status: Status,
        output: str | None,
        reason: str,
        custom_status: str | None,
    ) -> None:
        """Save an episode that ends the instance; `reason` is the text of a failure."""
        ...

    async def save_continued_as_new(
        self, episode: Episode, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Save an episode that ends with continue-as-new."""
        ...


def is_ready(instance: OrchestrationInstance) -> bool:
    """Return whether an episode of the instance can run now."""
    if instance.is_finished:
        return False
    if instance.is_suspended:
        return find_termination(instance) is not None or (
            bool(instance.shim.timers) and len(instance.mailbox) > instance.attempted_count
        )
    return bool(instance.mailbox) or instance.episode_count == 0


def find_termination(instance: OrchestrationInstance) -> TaskMessage | None:
    """Return the termination message that waits in an instance's mailbox, or None."""
    for message in instance.mailbox:
        if message.kind is EventType.EXECUTION_TERMINATED:
            return message
    return None


def take_messages(instance: OrchestrationInstance) -> list[TaskMessage]:
    """Remove the messages of one episode from an instance's mailbox, and return them.

    A message that makes the SDK continue a retry must be the first of its episode. Otherwise, the
    engine could not number the tasks in the same order as the SDK.
    """
    batch: list[TaskMessage] = []
    shim, mailbox = instance.shim, instance.mailbox
    while mailbox:
        message = mailbox[0]
        moves = shim.continues_retry(message.task, failed=message.kind in FAILURES)
        if moves and batch:
            break
        batch.append(mailbox.popleft())
    return batch


def begin_episode(instance: OrchestrationInstance, batch: list[TaskMessage], now: int) -> Episode:
    """Return a new episode that already contains the history events of its start."""
    episode = Episode(instance, batch, now, instance.shim.copy())
    episode.events.append(history.event(EventType.ORCHESTRATOR_STARTED, now))
    if instance.episode_count == 0:
        parent_id = instance.parent.id if instance.parent else None
        episode.events.append(
            history.execution_started(
                now,
                instance.name,
                instance.version,
                instance.input,
                instance.id,
                instance.execution,
                parent_id,
                instance.shim.generation,
            )
        )
    return episode


def close_events(episode: Episode) -> str:
    """Add OrchestratorCompleted; return the episode's events as JSON, marked as played."""
    episode.events.append(history.event(EventType.ORCHESTRATOR_COMPLETED, episode.now))
    return history.mark_played(episode.new_events)


def make_next_execution(
    episode: Episode, command: ContinueAsNew, custom_status: str | None
) -> OrchestrationInstance:
    """Return the next execution of an instance whose episode ended with continue-as-new."""
    instance = episode.instance
    return OrchestrationInstance(
        instance.id,
        make_id(),
        instance.name,
        instance.version,
        Status.SUSPENDED if instance.is_suspended else Status.RUNNING,
        # The SDK's JSON text becomes one JSON string, whose content `get_input` decodes as JSON.
        quoted(command.input),
        episode.now,
        episode.now,
        instance.parent,
        custom_status=custom_status,
        shim=Shim(generation=None),
    )


def make_child_completion(
    now: int, parent: Parent, status: Status, output: str | None, reason: str
) -> TaskMessage:
    """Return the message that reports the end of a sub-orchestration to its parent."""
    if status is Status.COMPLETED:
        kind = EventType.CHILD_COMPLETED
        text = history.completed(kind, now, parent.task, output)
    else:
        kind = EventType.CHILD_FAILED
        # A child that failed has the text `Orchestrator function 'NAME' failed: CAUSE`.
        cause = reason.partition("' failed: ")[2]
        details = f"Message: {cause}, StackTrace: " if cause else ""
        text = history.failed(kind, now, parent.task, reason, details)
    return TaskMessage(kind, text, parent.task, parent.execution)


class Outbox(Protocol):
    """Sends the activities, timers and sub-orchestrations that an episode schedules.

    The methods add SQL statements to the transaction that stores the result of the episode. They
    may also add functions that are called after this transaction was committed.
    """

    def schedule_activity(self, episode: Episode, command: ScheduleActivity) -> None:
        """Add to the episode the SQL statement that schedules an activity."""
        ...

    def start_timer(self, episode: Episode, timer: TimerRow) -> None:
        """Add to the episode the SQL statement that starts a timer."""
        ...

    def cancel_timer(self, episode: Episode, task: int) -> None:
        """Add the SQL statement that cancels a timer to the episode, if one is needed."""
        ...

    def start_child(self, episode: Episode, child: OrchestrationInstance) -> None:
        """Add the start of a sub-orchestration, or its failure if its id is in use."""
        ...


class Scheduler:
    """Schedules the activities, timers and sub-orchestrations that an orchestrator requests.

    Adds the history events of these tasks to the episode. The `Outbox` adds the SQL statements that
    start the tasks.
    """

    def __init__(self, runner: FunctionRunner, outbox: Outbox) -> None:
        self._runner = runner
        self._outbox = outbox

    def apply(self, episode: Episode, commands: list[Command]) -> None:
        """Schedule the tasks that an episode's commands request, and cancel timers.

        Raises ActionInvalid if a command names an unknown activity or orchestrator.
        """
        for command in commands:
            match command:
                case ScheduleActivity():
                    self._schedule(episode, command)
                case StartChild():
                    self._start_child(episode, command)
                case StartTimer():
                    self._start_timer(episode, command)
                case CancelTimer(task):
                    self._outbox.cancel_timer(episode, task)
                case ContinueAsNew():
                    pass

    def _schedule(self, episode: Episode, command: ScheduleActivity) -> None:
        if find_name(self._runner.activities, command.name) is None:
            raise ActionInvalid(describe_unknown_activity(self._runner, command.name))
        episode.events.append(
            history.task_scheduled(episode.now, command.task, command.name, command.input)
        )
        self._outbox.schedule_activity(episode, command)

    def _start_timer(self, episode: Episode, command: StartTimer) -> None:
        instance = episode.instance
        episode.events.append(history.timer_created(episode.now, command.task, command.due))
        if command.canceled:
            return
        timer = TimerRow(instance.id, command.task, instance.execution, command.due)
        self._outbox.start_timer(episode, timer)

    def _start_child(self, episode: Episode, command: StartChild) -> None:
        parent = episode.instance
        if find_name(self._runner.orchestrators, command.name) is None:
            raise ActionInvalid(describe_unknown_orchestrator(self._runner, command.name))
        child_id = command.instance_id or f"{uuid.UUID(parent.execution)}:{command.task}"
        # The SDK's JSON text becomes one JSON string, whose content `get_input` decodes as JSON.
        input_text = quoted(command.input)
        episode.events.append(
            history.child_created(episode.now, command.task, command.name, child_id, input_text)
        )
        link = Parent(parent.id, parent.execution, command.task)
        version = parent.version if command.version is None else command.version
        child = OrchestrationInstance(
            child_id,
            make_id(),
            command.name,
            version,
            Status.PENDING,
            input_text,
            episode.now,
            episode.now,
            link,
        )
        self._outbox.start_child(episode, child)


class EpisodeRunner:
    """Runs episodes. The engine must not run two episodes of one instance at the same time."""

    def __init__(
        self,
        now: Callable[[], int],
        read_history_of: Callable[[OrchestrationInstance], list[str]],
        runner: FunctionRunner,
        scheduler: Scheduler,
        checkpointer: EpisodeCheckpointer,
    ) -> None:
        self._now = now
        self._read_history_of = read_history_of
        self._runner = runner
        self._scheduler = scheduler
        self._checkpointer = checkpointer

    async def run(self, instance: OrchestrationInstance) -> bool:
        """Run one episode of an instance with messages from its mailbox.

        Return False, with the messages and the instance unchanged, if the instance is suspended and
        the episode would not cancel a timer. As in the Durable extension, a cancelled timer
        completes its `task_any`, although a message of a suspended instance completes nothing.
        Raises AppUnavailable or StoreUnavailable, after the messages are put back.
        """
        termination = find_termination(instance)
        count = len(instance.mailbox)
        batch = list(instance.mailbox) if termination else take_messages(instance)
        if termination:
            instance.mailbox.clear()
        try:
            if termination is not None:
                await self._terminate(instance, batch, termination)
            elif not await self._orchestrate(instance, batch):
                instance.mailbox.extendleft(reversed(batch))
                instance.attempted_count = count
                return False
        except BaseException:
            instance.mailbox.extendleft(reversed(batch))
            raise
        instance.attempted_count = 0
        return True

    async def _orchestrate(self, instance: OrchestrationInstance, batch: list[TaskMessage]) -> bool:
        was_suspended = instance.is_suspended
        episode = begin_episode(instance, batch, self._now())
        commands: list[Command] = []
        for message in batch:
            task = message.task
            if message.kind is EventType.EXECUTION_STARTED:
                continue  # `begin_episode` has added this event
            if message.kind is EventType.TIMER_FIRED:
                assert task is not None
                if not episode.shim.is_awaiting_timer(task):
                    continue
            episode.events.append(message.text)
            if task is not None:
                failed = message.kind in FAILURES
                commands += episode.shim.end_task(task, failed=failed, now=episode.now)
        state = await self._run_code(episode)
        failure: str | None = None
        try:
            if not state.has_actions:
                failure = _describe_failure(instance, state.error or "")
            else:
                commands += episode.shim.take_actions(
                    state.actions, lambda: self._read_events(episode)
                )
                cancels = any(isinstance(command, CancelTimer) for command in commands)
                if was_suspended and instance.is_suspended and not cancels:
                    return False
            self._scheduler.apply(episode, commands)
        except NonDeterministic as problem:
            failure = str(problem)
        except ActionInvalid as problem:
            # An error of the orchestrator itself takes precedence.
            failure = _describe_failure(instance, state.error or str(problem))
        await self._save(episode, state, commands, failure)
        return True

    async def _save(
        self, episode: Episode, state: EpisodeState, commands: list[Command], failure: str | None
    ) -> None:
        """Save an episode, and end the instance if the orchestrator function has failed or ended.

        It fails at once with the text `failure`, but ends only after its open tasks. As in
        DurableTask.Core, the first episode after continue-as-new keeps the custom status.
        """
        custom_status = state.custom_status
        if custom_status is None and episode.instance.episode_count == 0:
            custom_status = episode.instance.custom_status
        again = next((c for c in commands if isinstance(c, ContinueAsNew)), None)
        ends = state.error is not None or again is not None or state.done
        if failure is None and (not ends or episode.shim.has_open_tasks):
            if ends and episode.shim.ended_episode is None:
                episode.shim.ended_episode = episode.instance.episode_count
                episode.shim.before_end = episode.instance.shim.dump()
            await self._checkpointer.save_waiting(episode, custom_status)
            return
        if failure is None and state.error is not None:
            failure = _describe_failure(episode.instance, state.error)
        if failure is not None:
            await self._checkpointer.save_finished(
                episode, Status.FAILED, quoted(failure), failure, custom_status
            )
        elif again is not None:
            await self._checkpointer.save_continued_as_new(episode, again, custom_status)
        else:
            await self._checkpointer.save_finished(
                episode, Status.COMPLETED, state.output, "", custom_status
            )

    def _read_events(self, episode: Episode) -> list[dict[str, Any]]:
        fragments = [*self._read_history_of(episode.instance), episode.new_events]
        events: list[dict[str, Any]] = json.loads(f"[{','.join(fragments)}]")
        return events

    async def _run_code(self, episode: Episode) -> EpisodeState:
        instance = episode.instance
        name = find_name(self._runner.orchestrators, instance.name)
        if name is None:
            error = describe_unknown_orchestrator(self._runner, instance.name)
            return EpisodeState((), done=False, error=error, has_actions=False)
        context = context_json(
            instance.id,
            instance.parent.id if instance.parent else None,
            instance.input,
            self._read_history_of(instance),
            episode.new_events,
            replaying=instance.episode_count > 0,
        )
        try:
            return read_state(await self._runner.run_orchestrator(name, context))
        except FunctionFailure as failure:
            return read_failure(failure)
        except ActionInvalid as problem:
            return EpisodeState((), done=False, error=str(problem), has_actions=False)

    async def _terminate(
        self, instance: OrchestrationInstance, batch: list[TaskMessage], termination: TaskMessage
    ) -> None:
        episode = begin_episode(instance, batch, self._now())
        episode.events += [m.text for m in batch if m.kind not in _WITHOUT_EVENT]
        episode.events.append(
            history.event(
                EventType.EXECUTION_TERMINATED, episode.now, rest=f',"Input":{termination.text}'
            )
        )
        reason = json.loads(termination.text)
        await self._checkpointer.save_finished(
            episode,
            Status.TERMINATED,
            None if reason is None else termination.text,
            str(reason or ""),
            instance.custom_status,
        )


def _describe_failure(instance: OrchestrationInstance, error: str) -> str:
    return f"Orchestrator function '{instance.name}' failed: {error}"
