"""The dead-letter operations of operators, for the command line.

A dead letter is a message that the broker moved to the dead-letter queue, because the workers could
not process it. The functions return a dead letter as the gateway's JSON object, without the
payload.
"""

from collections.abc import AsyncGenerator
from typing import Any

from loosely.client.clients import Client, block, block_each
from loosely.client.errors import UnexpectedAnswer
from loosely.client.operations import ClientOperations
from loosely.client.requests import HttpRequest
from loosely.client.resources import decode_json

_PAGE_SIZE = "100"


async def list_dead_letters(
    operations: ClientOperations, model: str | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the dead letters of one model, or of all models if ``model`` is ``None``.

    The dead letters of each queue are sorted from the oldest to the newest.
    """
    filters = {"model": model} if model else {}
    cursor: str | None = None
    while True:
        params = {**filters, "limit": _PAGE_SIZE, **({"cursor": cursor} if cursor else {})}
        page = await _send(operations, operations.requests.dead_letters("GET", params=params), 200)
        letters, next_cursor = page.get("dead_letters"), page.get("next_cursor")
        if not isinstance(letters, list):
            raise UnexpectedAnswer(
                operations.requests.shown_url, 200, "the body is not a list of dead letters"
            )
        for letter in letters:
            if isinstance(letter, dict):
                yield letter
        if not isinstance(next_cursor, str) or next_cursor == cursor:
            return
        cursor = next_cursor


async def get_dead_letter(
    operations: ClientOperations, model: str, letter_id: str
) -> dict[str, Any]:
    """Return the dead letter with this id."""
    return await _send(operations, operations.requests.dead_letters("GET", model, letter_id), 200)


async def redrive_dead_letter(
    operations: ClientOperations, model: str, letter_id: str
) -> dict[str, Any]:
    """Submit the work of a dead letter as a new job. Repeated calls make only one new job.

    Returns:
        The gateway's JSON object. It contains ``job_id``, ``is_new_job`` and ``is_repeat``.
    """
    request = operations.requests.dead_letters("POST", model, letter_id, "redrive")
    return await _send(operations, request, 200, 202)


async def purge_dead_letter(operations: ClientOperations, model: str, letter_id: str) -> None:
    """Delete the dead letter with this id."""
    request = operations.requests.dead_letters("DELETE", model, letter_id)
    await operations.send(request, (204,))


async def purge_dead_letters(operations: ClientOperations, model: str) -> int:
    """Delete all dead letters of a model and return how many were deleted."""
    deleted = 0
    while True:
        request = operations.requests.dead_letters("DELETE", params={"model": model})
        response = await _send(operations, request, 200)
        count = response.get("deleted")
        deleted += count if isinstance(count, int) else 0
        # Stop if a response reports no progress. Otherwise this loop might never end.
        if response.get("is_complete") is not False or not count:
            return deleted


class OperatorClient(Client):
    """A client with the dead-letter operations. Its API key must have the scope ``admin``."""

    list_dead_letters = block_each(list_dead_letters)
    get_dead_letter = block(get_dead_letter)
    redrive_dead_letter = block(redrive_dead_letter)
    purge_dead_letter = block(purge_dead_letter)
    purge_dead_letters = block(purge_dead_letters)


async def _send(
    operations: ClientOperations, request: HttpRequest, *expected: int
) -> dict[str, Any]:
    response = await operations.send(request, expected)
    document = decode_json(response.body)
    if not isinstance(document, dict):
        raise UnexpectedAnswer(response.shown_url, response.status, "the body is not a JSON object")
    return document
