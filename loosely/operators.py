"""What operators do with a gateway, beside what callers do."""

from collections.abc import Iterator, Mapping
from typing import Any

from loosely.client import Client
from loosely.errors import UnexpectedAnswer
from loosely.job import decode
from loosely.operations import Operations
from loosely.steps import Answer, Emit, Request, Steps


class OperatorClient(Client):
    """A client whose key has the scope ``admin``.

    A dead letter is a message that workers gave up on. It is shown as the gateway's own JSON,
    without the payload.
    """

    def dead_letters(self, model: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the dead letters, by queue, the oldest first."""
        return self._driven(_listed(self._operations, {"model": model} if model else {}))

    def dead_letter(self, model: str, letter_id: str) -> dict[str, Any]:
        """Return one dead letter."""
        request = self._operations.endpoint.dead_letters("GET", model, letter_id)
        return self._done(_asked(self._operations, request, 200))

    def redrive(self, model: str, letter_id: str) -> dict[str, Any]:
        """Send a dead letter again, once; return as which job, and whether that was done before."""
        request = self._operations.endpoint.dead_letters("POST", model, letter_id, "redrive")
        return self._done(_asked(self._operations, request, 200, 202))

    def purge(self, model: str, letter_id: str) -> None:
        """Throw a dead letter away."""
        request = self._operations.endpoint.dead_letters("DELETE", model, letter_id)
        self._done(self._operations.ask(request, (204,), self._operations.place))

    def purge_all(self, model: str) -> int:
        """Throw all dead letters of a model away; return how many."""
        deleted, is_complete = 0, False
        while not is_complete:
            request = self._operations.endpoint.dead_letters("DELETE", params={"model": model})
            answer = self._done(_asked(self._operations, request, 200))
            count = answer.get("deleted")
            deleted += count if isinstance(count, int) else 0
            # An answer that says nothing of this kind must not be asked for without end.
            is_complete = answer.get("is_complete") is not False or not count
        return deleted


def _listed(operations: Operations, filters: Mapping[str, str]) -> Steps[None]:
    cursor: str | None = None
    while True:
        params = {**filters, "limit": "100", **({"cursor": cursor} if cursor else {})}
        page = yield from _asked(
            operations, operations.endpoint.dead_letters("GET", params=params), 200
        )
        letters, following = page.get("dead_letters"), page.get("next_cursor")
        if not isinstance(letters, list):
            raise UnexpectedAnswer(operations.place, 200, "with no dead letters in it")
        for letter in letters:
            if isinstance(letter, dict):
                yield Emit(letter)
        if not isinstance(following, str) or following == cursor:
            return
        cursor = following


def _asked(operations: Operations, request: Request, *expected: int) -> Steps[dict[str, Any]]:
    answer: Answer = yield from operations.ask(request, expected, operations.place)
    document = decode(answer.body)
    if not isinstance(document, dict):
        raise UnexpectedAnswer(operations.place, answer.status, "with no JSON object in it")
    return document
