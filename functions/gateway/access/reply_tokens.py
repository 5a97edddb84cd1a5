"""Reply tokens: leave to reply to one job until one time, and to nothing else."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from contract.names import (
    REPLY_EXPIRES_PARAMETER,
    REPLY_QUEUE_PARAMETER,
    REPLY_TOKEN_PARAMETER,
    reply_path,
)
from gateway.errors import ExpiredToken, InvalidToken

GRACE = timedelta(seconds=60)
"""How long after the deadline a token still opens the door, only to be told 410 by the job."""


class ReplyTokens:
    """Makes and checks the tokens in reply URLs."""

    def __init__(self, keys: Sequence[bytes], base_url: str) -> None:
        """`keys` hold one or more; the first signs, all verify, so that keys can be rotated."""
        self._keys = tuple(keys)
        self._base_url = base_url

    def url(self, job_id: str, deadline: datetime, queue: str) -> str:
        """The reply URL of a job, good until some grace after its deadline.

        The queue is for the statistics of whoever takes the reply, so it is not signed.
        """
        expires = int((deadline + GRACE).timestamp())
        query = urlencode(
            {
                REPLY_QUEUE_PARAMETER: queue,
                REPLY_EXPIRES_PARAMETER: expires,
                REPLY_TOKEN_PARAMETER: _sign(self._keys[0], job_id, str(expires)),
            }
        )
        return f"{self._base_url}{reply_path(job_id)}?{query}"

    def check(self, job_id: str, expires: str, token: str, now: datetime) -> None:
        """Raise InvalidToken, or ExpiredToken where the token is genuine but late."""
        given = token.encode("utf-8", "replace")
        genuine = [
            hmac.compare_digest(_sign(key, job_id, expires).encode(), given) for key in self._keys
        ]
        # A genuine token vouches for `expires`, so that it is the number that we wrote.
        if not any(genuine):
            raise InvalidToken("the reply token is not for this job")
        if datetime.fromtimestamp(int(expires), UTC) <= now:
            raise ExpiredToken("the time for a reply is over")


def _sign(key: bytes, job_id: str, expires: str) -> str:
    # The length keeps "ab" + "1" and "a" + "b1" apart whatever the texts hold.
    text = f"{len(job_id)}:{job_id}:{expires}".encode("utf-8", "replace")
    digest = hmac.new(key, text, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
