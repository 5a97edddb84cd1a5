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
from typing import Annotated, Final

from pydantic import Field
from typing_extensions import TypedDict

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
class LetterPage:
    """The dead letters that match a filter, of all that were `examined`.

    `cursor` is where the next call continues; None if no more letters follow.
    """

    letters: list[StoredLetter]
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
    found: list[StoredLetter] = []
    examined = 0
    while examined < min(len(listed), most) and len(found) < limit:
        names = listed[examined : min(examined + _READS_AT_ONCE, most)]
        for each in await asyncio.gather(*(_read(blobs, model, id_) for model, id_ in names)):
            examined += 1
            if each is not None and wanted.matches(each):
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


async def _read(blobs: Blobs, model: ModelEntry, id_: str) -> StoredLetter | None:
    blob = await blobs.read(letter_blob_of(model, id_))
    return None if blob is None else read_letter(model, id_, blob.data)


class ChangedLetter(TypedDict):
    """A dead letter that an action has redriven or purged."""

    model: str
    id: str
    job_id: Annotated[
        str | None, Field(description="The job that does the work again; null after a purge.")
    ]


class RefusedLetter(TypedDict):
    """A dead letter that an action could not redrive. `detail` is the reason."""

    model: str
    id: str
    detail: str


class LetterActionResult(TypedDict):
    """What an action did with the dead letters that match its filter."""

    action: LetterAction
    done: list[ChangedLetter]
    refused: list[RefusedLetter]
    next_cursor: Annotated[
        str | None,
        Field(
            description="Letters that were not reached follow this cursor; null if there are none. "
            "Count them with it, then send the same action with it and the new count."
        ),
    ]


@dataclass(frozen=True, slots=True)
class LetterActions:
    """Redrives and purges dead letters, and logs each change and who requested it."""

    blobs: Blobs
    redriver: Redriver
    clock: Clock

    async def apply(
        self, durable: Durable, caller: Caller, action: LetterAction, page: LetterPage
    ) -> LetterActionResult:
        """Redrive or purge the dead letters of a page, until ACTION_TIME has passed.

        If the process dies, the caller can search again and repeat the action, because no dead
        letter is redriven twice. Raises Unavailable if a service fails.
        """
        ends_at = self.clock() + ACTION_TIME
        done: list[ChangedLetter] = []
        refused: list[RefusedLetter] = []
        cursor = page.cursor
        for start in range(0, len(page.letters), _CHANGES_AT_ONCE):
            if self.clock() >= ends_at:
                last = page.letters[start - 1]
                cursor = _cursor_of(last.model, last.id)
                break
            group = page.letters[start : start + _CHANGES_AT_ONCE]
            results = await asyncio.gather(
                *(self._change(durable, caller, action, each) for each in group),
                return_exceptions=True,
            )
            for letter, result in zip(group, results, strict=True):
                model, id_ = letter.model.name, letter.id
                if isinstance(result, UnknownLetter):
                    text = "the dead letter has been deleted"
                    refused.append({"model": model, "id": id_, "detail": text})
                elif isinstance(result, NotRedrivable):
                    refused.append({"model": model, "id": id_, "detail": str(result)})
                elif isinstance(result, BaseException):
                    raise result
                else:
                    done.append({"model": model, "id": id_, "job_id": result})
        return {"action": action, "done": done, "refused": refused, "next_cursor": cursor}

    async def _change(
        self, durable: Durable, caller: Caller, action: LetterAction, letter: StoredLetter
    ) -> str | None:
        """Purge or redrive a dead letter, and return the id of the job that does the work again."""
        if action is LetterAction.PURGE:
            await self.purge(caller, letter.model, letter.id)
            return None
        sent = await self.redriver.redrive(durable, letter.model, letter.id)
        if not sent.is_repeat:
            log_redrive(caller, letter.model, letter.id, sent.job_id)
        return sent.job_id

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
