"""Fetch inputs from URLs, with limits on size and time."""

import json
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin

from contract import media
from contract.catalogue import ModelEntry
from contract.errors import ForbiddenAddress
from contract.messages import PayloadUrl
from worker.errors import InvalidInput, OutboundFailed, UnsupportedMediaType
from worker.inputs.decoder_process import Data
from worker.net.guarded_http import GuardedHttp, GuardedResponse, Limits

LIMIT_SECONDS: Final = 20.0
"""How many seconds a whole download may take, with its DNS look-ups and its redirects."""

MAX_REDIRECTS: Final = 5

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "loosely-worker"}


class UrlFetcher:
    """Downloads inputs from URLs that the SSRF guard allows, and follows redirects."""

    def __init__(
        self,
        http: GuardedHttp,
        limit_seconds: float = LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._limit_seconds = limit_seconds
        self._clock = clock

    def fetch(self, payload: PayloadUrl, model: ModelEntry) -> tuple[Data, str]:
        """Download an input from its URL, and return its bytes and its media type.

        Raises:
            InvalidInput: The URL is not allowed, or the server sent no usable response.
            UnsupportedMediaType: The model does not accept the media type, or the bytes do not
                have this type.
            LookUpsBusy: Too many host names are being looked up for the inputs of this model.
        """
        response = self._get(payload.url, model)
        if response.status != 200:
            raise InvalidInput(
                f"the server of the input's URL answered with status {response.status}; "
                "expected 200"
            )
        if len(response.body) > model.max_url_bytes:
            raise InvalidInput(
                f"the response from the input's URL is too large; at most {model.max_url_bytes} "
                "bytes are accepted"
            )
        if not response.body:
            raise InvalidInput("the response from the input's URL is empty")
        return response.body, _media_type(payload, response, model)

    def _get(self, url: str, model: ModelEntry) -> GuardedResponse:
        ends_at = self._clock() + self._limit_seconds
        for _ in range(MAX_REDIRECTS + 1):
            seconds = ends_at - self._clock()
            limits = Limits(model.max_url_bytes, seconds, f"inputs of {model.name}")
            try:
                response = self._http.get(url, _HEADERS, limits)
            except ForbiddenAddress as error:
                raise InvalidInput(f"the input's URL is not allowed: {error}") from None
            except OutboundFailed as error:
                raise InvalidInput(f"the request to the input's URL failed: {error}") from None
            if response.status not in _REDIRECTS or response.location is None:
                return response
            try:
                # The target is checked like the first URL, in the next iteration.
                url = urljoin(url, response.location)
            except ValueError:
                raise InvalidInput(
                    "the input's URL redirects to a location that is not a valid URL"
                ) from None
        raise InvalidInput(f"the input's URL redirects more than {MAX_REDIRECTS} times")


def _media_type(payload: PayloadUrl, response: GuardedResponse, model: ModelEntry) -> str:
    """Return the media type of a response.

    If the job contains a media type, return this type. Otherwise, return the type that the first
    bytes of the body show. If the first bytes show no known type, return the type in the
    Content-Type header.

    Raises:
        UnsupportedMediaType: The model does not accept the media type, or the bytes of the body do
            not have this type.
    """
    found = (
        media.essence(payload.media_type or "")
        or media.sniff(response.body)
        or response.media_type
        or media.OCTET_STREAM
    )
    if found not in model.media_types:
        raise UnsupportedMediaType(
            f"the response from the input's URL has the media type {found[:100]}, which "
            f"{model.name} does not accept; expected {' or '.join(model.media_types)}"
        )
    if not media.agrees(found, response.body) or (
        found == media.JSON and not _may_be_json(response.body)
    ):
        raise UnsupportedMediaType(
            f"the input has the media type {found}, but the content that its URL returned is not "
            "of this type; check the URL, or submit the media type of the content"
        )
    return found


def _may_be_json(data: Data) -> bool:
    """Return whether `data` is valid JSON.

    The result is also True if `data` is mapped from a file, because such large data is not parsed
    here.
    """
    if not isinstance(data, bytes):
        return True
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
