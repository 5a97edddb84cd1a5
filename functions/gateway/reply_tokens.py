"""Create and check reply tokens: permissions to reply to one job until the token expires."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from contract.names import (
    REPLY_EXPIRES_PARAMETER,
    REPLY_QUEUE_PARAMETER,
    REPLY_SHARE_PARAMETER,
    REPLY_START_PARAMETER,
    REPLY_TOKEN_PARAMETER,
)
from gateway.errors import ExpiredToken, InvalidToken

REPLY_GRACE: Final = timedelta(seconds=60)
"""How long a reply token is valid after its job's deadline, so that a late reply gets 410."""


class ReplyTokens:
    """Creates and checks reply tokens."""

    def __init__(self, keys: Sequence[bytes], base_url: str) -> None:
        """Sign new tokens with the first key, and accept tokens of any key."""
        self._keys = tuple(keys)
        self._base_url = base_url

    def url(
        self,
        job_id: str,
        deadline: datetime,
        queue: str,
        owner: str,
        starts_after: datetime | None = None,
    ) -> str:
        """Return the reply URL of a job. `owner` is the digest of its tenant.

        If the orchestration is started with the outcome of a reply until `starts_after`, the URL
        says so. This time, the owner and the queue are not signed: with others, a worker could only
        disturb the statistics, or make the orchestration find the outcome at its next check.
        """
        expires = _expires(deadline)
        query = {
            REPLY_QUEUE_PARAMETER: queue,
            REPLY_EXPIRES_PARAMETER: expires,
            REPLY_SHARE_PARAMETER: owner,
            REPLY_TOKEN_PARAMETER: _sign(self._keys[0], job_id, expires),
        }
        if starts_after is not None:
            query[REPLY_START_PARAMETER] = f"{starts_after.timestamp():.3f}"
        return f"{self._base_url}/v1/jobs/{job_id}/reply?{urlencode(query)}"

    def of_job(self, job_id: str, deadline: datetime) -> tuple[str, ...]:
        """Return the valid reply tokens of a job, one for each signing key."""
        return tuple(_sign(key, job_id, _expires(deadline)) for key in self._keys)

    def check(self, job_id: str, expires: str, token: str, now: datetime) -> None:
        """Raise InvalidToken or ExpiredToken if the token does not permit a reply to this job."""
        # `expires` is signed, so it is a number that we wrote if the signature matches.
        if not self._is_signed(job_id, expires, token):
            raise InvalidToken("the reply token is not valid for this job")
        if datetime.fromtimestamp(int(expires), UTC) <= now:
            raise ExpiredToken("the reply token has expired")

    def is_issued(self, job_id: str, url: str) -> bool:
        """Return whether a gateway, and not a producer, made this URL, even if it has expired."""
        try:
            query = parse_qs(urlsplit(url).query)
            (expires,), (token,) = query[REPLY_EXPIRES_PARAMETER], query[REPLY_TOKEN_PARAMETER]
        except (ValueError, KeyError):
            return False
        return self._is_signed(job_id, expires, token)

    def _is_signed(self, job_id: str, expires: str, token: str) -> bool:
        given = token.encode("utf-8", "replace")
        genuine = [
            hmac.compare_digest(_sign(key, job_id, expires).encode(), given) for key in self._keys
        ]
        return any(genuine)


def owner_in_url(url: str) -> str:
    """Return the digest of the tenant in a reply URL; empty if it has none."""
    return parse_qs(urlsplit(url).query).get(REPLY_SHARE_PARAMETER, [""])[0]


def _expires(deadline: datetime) -> str:
    return str(int((deadline + REPLY_GRACE).timestamp()))


def _sign(key: bytes, job_id: str, expires: str) -> str:
    # Because of the length, "ab" + "1" and "a" + "b1" are signed as different texts.
    text = f"{len(job_id)}:{job_id}:{expires}".encode("utf-8", "replace")
    digest = hmac.new(key, text, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
