"""Inputs that a job names by a URL: fetched within limits, or refused with a sentence."""

import json
from typing import Final
from urllib.parse import urljoin

from contract import media
from contract.catalogue import Model
from contract.errors import ForbiddenAddress
from contract.messages import PayloadUrl
from worker.errors import InvalidInput, OutboundFailed, UnsupportedMediaType
from worker.remote.outbound import Answer, Limits, Outbound

LIMIT_SECONDS: Final = 20.0
MAX_REDIRECTS: Final = 5

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "loosely-worker"}


class Fetcher:
    """Fetches over the guarded outbound client."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    def fetch(self, payload: PayloadUrl, model: Model) -> tuple[bytes, str]:
        """The bytes and their media type; InvalidInput or UnsupportedMediaType."""
        answer = self._answer(payload.url, model.max_input_bytes)
        if answer.status != 200:
            raise InvalidInput(f"the input's URL answered with status {answer.status}")
        if len(answer.body) > model.max_input_bytes:
            raise InvalidInput(
                f"the input's URL has more than the {model.max_input_bytes} bytes that are taken"
            )
        if not answer.body:
            raise InvalidInput("the input's URL has no bytes")
        return answer.body, _media_type(payload, answer, model)

    def _answer(self, url: str, limit_bytes: int) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = self._outbound.exchange(
                    "GET", url, _HEADERS, None, Limits(limit_bytes, LIMIT_SECONDS)
                )
            except ForbiddenAddress as error:
                raise InvalidInput(f"the input's URL cannot be fetched: {error}") from None
            except OutboundFailed as error:
                raise InvalidInput(f"the input's URL {error}") from None
            if answer.status not in _REDIRECTS or answer.location is None:
                return answer
            try:
                # A stranger's URL like the first: the next round checks it.
                url = urljoin(url, answer.location)
            except ValueError:
                raise InvalidInput("the input's URL redirects to what is no URL") from None
        raise InvalidInput(f"the input's URL redirects more than {MAX_REDIRECTS} times")


def _media_type(payload: PayloadUrl, answer: Answer, model: Model) -> str:
    """What the job announced, else what the bytes show, else what the server says."""
    found = (
        media.essence(payload.media_type or "")
        or media.sniff(answer.body)
        or answer.media_type
        or media.OCTET_STREAM
    )
    if found not in model.media_types:
        raise UnsupportedMediaType(
            f"the input's URL has {found[:100]}, which {model.name} does not take; "
            f"it takes {', '.join(model.media_types)}"
        )
    if not media.agrees(found, answer.body) or (found == media.JSON and not _is_json(answer.body)):
        raise UnsupportedMediaType(f"the bytes at the input's URL are not {found}")
    return found


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
