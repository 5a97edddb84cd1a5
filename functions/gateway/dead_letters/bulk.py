"""Find the dead letters that match a filter, and redrive or purge all of them.

The reason and the time of the dead-lettering are in the content of the blob, so each blob must be
read. Therefore one call examines at most MAX_EXAMINED dead letters, and returns a cursor with which
the next call continues.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Final

from contract.catalogue import ModelEntry, Priority, queue_of
from gateway.clock import Clock
from gateway.dead_letters.redrive import Redriver
from gateway.dead_letters.store import (
    DEAD_LETTERS,
    StoredLetter,
    letter_blob_of,
    letter_id,
    read_letter,
)
from gateway.durable import Durable
from gateway.errors import NotRedrivable, UnknownLetter
from gateway.keys import Caller
from gateway.storage.blobs import Blobs

MAX_EXAMINED: Final = 500
"""The largest number of dead letters that one request of an operator reads or changes."""

ACTION_TIME: Final = timedelta(seconds=15)
"""How long `LetterActions.apply` begins to change dead letters; then it returns a cursor.

A change takes up to about five seconds, and clients wait 30 seconds for a response.
"""

_READS_AT_ONCE: Final = 16
_CHANGES_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class LetterAction(StrEnum):
    """What an operator does with all dead letters that match a filter."""

    REDRIVE = "redrive"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Selects dead letters by their properties. A member that is None allows any value.

    `since` is inclusive and `before` is exclusive, and both are about when it was stored.
    """

    models: tuple[ModelEntry, ...]
    reason: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    is_redriven: bool | None = None

    @property
    def needs_content(self) -> bool:
        """Whether the filter needs the content of blobs, and not only their names."""
        members = (self.reason, self.since, self.before, self.is_redriven)
        return any(member is not None for member in members)

    def matches(self, letter: StoredLetter) -> bool:
        """Return whether a dead letter from a queue of one of the models matches this filter."""
        if self.reason is not None and letter.document.get("reason") != self.reason:
            return False
        if self.is_redriven not in {None, letter.is_redriven}:
            return False
        if self.since is None and self.before is None:
            return True
        at = letter.dead_lettered_at
        return (
            at is not None
            and (self.since is None or at >= self.since)
            and (self.before is None or at < self.before)
        )


@dataclass(frozen=True, slots=True)
class FoundLetter:
    """A dead letter, and the model to whose queue its message was sent."""

    model: ModelEntry
    letter: StoredLetter

    @property
    def cursor(self) -> str:
        """The cursor with which `find_letters` continues after this dead letter."""
        return _cursor_of(self.model, self.letter.id)


@dataclass(frozen=True, slots=True)
class LetterPage:
    """The dead letters that match a filter, of all that were `examined`.

    `cursor` is where the next call continues; None if no more letters follow.
    """

    letters: list[FoundLetter]
    examined: int
    cursor: str | None


async def find_letters(
    blobs: Blobs, wanted: LetterFilter, after: str, limit: int = MAX_EXAMINED
) -> LetterPage:
    """Return up to `limit` dead letters that match `wanted` and follow the cursor `after`.

    Raises Unavailable if the blob storage fails.
    """
    most = MAX_EXAMINED if wanted.needs_content else min(limit, MAX_EXAMINED)
    listed = await list_letters(blobs, wanted.models, after, most + 1)
    found: list[FoundLetter] = []
    examined = 0
    while examined < min(len(listed), most) and len(found) < limit:
        names = listed[examined : min(examined + _READS_AT_ONCE, most)]
        for each in await asyncio.gather(*(_read(blobs, model, id_) for model, id_ in names)):
            examined += 1
            if each is not None and wanted.matches(each.letter):
                found.append(each)
            if len(found) == limit:
                break
    cursor = _cursor_of(*listed[examined - 1]) if examined < len(listed) else None
    return LetterPage(found, examined, cursor)


async def list_letters(
    blobs: Blobs, models: Sequence[ModelEntry], after: str, count: int
) -> list[tuple[ModelEntry, str]]:
    """Return the models and ids of up to `count` dead letters that follow the cursor `after`.

    They are sorted by the name of the queue, then of the blob. May raise Unavailable.
    """
    found: list[tuple[ModelEntry, str]] = []
    queues = {
        queue_of(model, priority): (model, priority) for model in models for priority in Priority
    }
    last_queue, _, last_name = after.partition("/")
    for queue, (model, priority) in sorted(queues.items(), key=itemgetter(0)):
        if queue < last_queue:
            continue
        prefix = f"{DEAD_LETTERS}{queue}/"
        async for blob in blobs.list(prefix):
            name = blob.name.removeprefix(prefix)
            if (queue, name) > (last_queue, last_name):
                found.append((model, letter_id(name, priority)))
            if len(found) == count:
                return found
    return found


def _cursor_of(model: ModelEntry, id_: str) -> str:
    return letter_blob_of(model, id_).removeprefix(DEAD_LETTERS)


async def _read(blobs: Blobs, model: ModelEntry, id_: str) -> FoundLetter | None:
    blob = await blobs.read(letter_blob_of(model, id_))
    return None if blob is None else FoundLetter(model, read_letter(id_, blob.data))


@dataclass(frozen=True, slots=True)
class LetterChange:
    """What an action did with one dead letter: redriven as `job_id`, refused, or purged."""

    model: str
    id: str
    job_id: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class LetterChanges:
    """The result of `LetterActions.apply`. `cursor` is where the next call continues, if any."""

    changes: list[LetterChange]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class LetterActions:
    """Redrives and purges dead letters, and logs each change and who requested it."""

    blobs: Blobs
    redriver: Redriver
    clock: Clock

    async def apply(
        self, durable: Durable, caller: Caller, action: LetterAction, page: LetterPage
    ) -> LetterChanges:
        """Redrive or purge the dead letters of a page, until ACTION_TIME has passed.

        If the process dies, the caller can search again and repeat the action, because no dead
        letter is redriven twice. Raises Unavailable if a service fails.
        """
        ends_at = self.clock() + ACTION_TIME
        changes: list[LetterChange] = []
        for start in range(0, len(page.letters), _CHANGES_AT_ONCE):
            if self.clock() >= ends_at:
                return LetterChanges(changes, page.letters[start - 1].cursor)
            group = page.letters[start : start + _CHANGES_AT_ONCE]
            results = await asyncio.gather(
                *(self._change(durable, caller, action, each) for each in group),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                changes.append(result)
        return LetterChanges(changes, page.cursor)

    async def _change(
        self, durable: Durable, caller: Caller, action: LetterAction, found: FoundLetter
    ) -> LetterChange:
        model, id_ = found.model, found.letter.id
        if action is LetterAction.PURGE:
            await self.purge(caller, model, id_)
            return LetterChange(model.name, id_)
        try:
            sent = await self.redriver.redrive(durable, model, id_)
        except NotRedrivable as error:
            return LetterChange(model.name, id_, refusal=str(error))
        except UnknownLetter:
            return LetterChange(model.name, id_, refusal="the dead letter has been deleted")
        if not sent.is_repeat:
            log_redrive(caller, model, id_, sent.job_id)
        return LetterChange(model.name, id_, sent.job_id)

    async def purge(self, caller: Caller, model: ModelEntry, id_: str) -> None:
        """Delete a dead letter if it exists. Raises Unavailable if the blob storage fails."""
        await self.blobs.delete(letter_blob_of(model, id_))
        _log.info(
            "caller %.100r purged the dead letter %s of the model %s",
            caller.logged_name,
            id_,
            model.name,
        )


def log_redrive(caller: Caller, model: ModelEntry, id_: str, job_id: str) -> None:
    """Log that a caller has redriven a dead letter."""
    _log.info(
        "caller %.100r redrove the dead letter %s of the model %s as job %.100r",
        *(caller.logged_name, id_, model.name, job_id),
    )
