"""The dead-letter operations of operators. A dead letter is the gateway's JSON object."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from loosely.client.clients import Client, block, block_each
from loosely.client.errors import UnexpectedAnswer
from loosely.client.operations import ClientOperations
from loosely.client.requests import HttpRequest
from loosely.client.responses import read_as

_PAGE_SIZE = "100"
#: The segments of the URL path after `/v1`.
_LETTERS = ("admin", "dead-letters")


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters by their properties. A member that is ``None`` allows any value.

    ``after`` is inclusive and ``before`` is exclusive, compared with the time of dead-lettering.
    """

    model: str | None = None
    reason: str | None = None
    after: datetime | None = None
    before: datetime | None = None

    def members(self) -> dict[str, str]:
        """Return the members that are not ``None``, under the names that the gateway uses."""
        members = {
            "model": self.model,
            "reason": self.reason,
            "dead_lettered_after": None if self.after is None else self.after.isoformat(),
            "dead_lettered_before": None if self.before is None else self.before.isoformat(),
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class LetterCount:
    """How many dead letters match a filter, and how many of them were not redriven.

    ``parts`` has both numbers of each request, which counts up to 500, by the request's cursor.
    """

    count: int
    not_redriven: int
    parts: Mapping[str | None, tuple[int, int]] = field(repr=False)


class OperatorOperations(ClientOperations):
    """The operations on dead letters, in addition to those of all callers."""

    async def list_dead_letters(
        self, wanted: DeadLetterFilter
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the dead letters that match a filter, the oldest of each queue first."""
        cursor: str | None = None
        while True:
            params = {**wanted.members(), "limit": _PAGE_SIZE, "cursor": cursor}
            page = await self._read(self._requests.build("GET", *_LETTERS, params=params), 200)
            letters, next_cursor = page.get("dead_letters"), page.get("next_cursor")
            if not isinstance(letters, list):
                raise UnexpectedAnswer(
                    self._requests.shown_url, 200, "the body is not a list of dead letters"
                )
            for letter in letters:
                if isinstance(letter, dict):
                    yield letter
            if not isinstance(next_cursor, str) or next_cursor == cursor:
                return
            cursor = next_cursor

    async def count_dead_letters(self, wanted: DeadLetterFilter) -> LetterCount:
        """Count the dead letters that match a filter."""
        parts: dict[str | None, tuple[int, int]] = {}
        cursor: str | None = None
        while cursor not in parts:
            count, not_redriven, next_cursor = await self._count_part(wanted, cursor)
            parts[cursor] = (count, not_redriven)
            if next_cursor is None:
                break
            cursor = next_cursor
        return LetterCount(
            sum(count for count, _ in parts.values()),
            sum(rest for _, rest in parts.values()),
            parts,
        )

    async def change_dead_letters(
        self,
        action: Literal["redrive", "purge"],
        wanted: DeadLetterFilter,
        seen: LetterCount,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Redrive or purge the dead letters that match a filter, and yield the gateway's responses.

        Raises RequestRefused with the code ``count-changed`` if the number now differs from
        ``seen``, which the user has confirmed. Letters of earlier responses stay changed.
        """
        is_redrive = action == "redrive"
        left = seen.not_redriven if is_redrive else seen.count
        cursor: str | None = None
        while True:
            part = seen.parts.get(cursor)
            if part is None:  # the gateway stopped within a part, because its time was over
                part = (await self._count_part(wanted, cursor))[:2]
            order = {
                "action": action,
                "count": min(left, part[1] if is_redrive else part[0]),
                "filter": wanted.members(),
                "cursor": cursor,
            }
            request = self._requests.build("POST", *_LETTERS, "actions", document=order)
            response = await self._read(request, 200)
            yield response
            for name in ("done", "refused"):
                letters = response.get(name)
                left -= len(letters) if isinstance(letters, list) else 0
            next_cursor = response.get("next_cursor")
            if not isinstance(next_cursor, str) or next_cursor == cursor:
                return
            cursor = next_cursor

    async def _count_part(
        self, wanted: DeadLetterFilter, cursor: str | None
    ) -> tuple[int, int, str | None]:
        params = {**wanted.members(), "cursor": cursor}
        request = self._requests.build("GET", *_LETTERS, "count", params=params)
        match await self._read(request, 200):
            case {
                "count": int(count),
                "not_redriven": int(rest),
                "next_cursor": (str() | None) as end,
            }:
                return count, rest, end
        raise UnexpectedAnswer(
            self._requests.shown_url, 200, "the body is not a count of dead letters"
        )

    async def get_dead_letter(self, model: str, letter_id: str) -> dict[str, Any]:
        """Return the dead letter with this id."""
        return await self._read(self._requests.build("GET", *_LETTERS, model, letter_id), 200)

    async def redrive_dead_letter(self, model: str, letter_id: str) -> dict[str, Any]:
        """Submit the work of a dead letter again. Repeated calls make only one new job."""
        request = self._requests.build("POST", *_LETTERS, model, letter_id, "redrive")
        return await self._read(request, 200, 202)

    async def purge_dead_letter(self, model: str, letter_id: str) -> None:
        """Delete the dead letter with this id."""
        request = self._requests.build("DELETE", *_LETTERS, model, letter_id)
        await self._send(request, (204,))

    async def purge_dead_letters(self, model: str) -> int:
        """Delete all dead letters of a model and return how many were deleted."""
        deleted = 0
        while True:
            request = self._requests.build("DELETE", *_LETTERS, params={"model": model})
            response = await self._read(request, 200)
            count = response.get("deleted")
            deleted += count if isinstance(count, int) else 0
            # Stop if a response reports no progress. Otherwise this loop might never end.
            if response.get("is_complete") is not False or not count:
                return deleted

    async def _read(self, request: HttpRequest, *expected: int) -> dict[str, Any]:
        return read_as(await self._send(request, expected), dict, "a JSON object")


class OperatorClient(Client):
    """A client with the dead-letter operations, for a key with ``admin`` or ``ops:read``."""

    _kind = OperatorOperations

    list_dead_letters = block_each(OperatorOperations.list_dead_letters)
    count_dead_letters = block(OperatorOperations.count_dead_letters)
    change_dead_letters = block_each(OperatorOperations.change_dead_letters)
    get_dead_letter = block(OperatorOperations.get_dead_letter)
    redrive_dead_letter = block(OperatorOperations.redrive_dead_letter)
    purge_dead_letter = block(OperatorOperations.purge_dead_letter)
    purge_dead_letters = block(OperatorOperations.purge_dead_letters)
