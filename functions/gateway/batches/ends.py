"""The entries of the logs of ends, which are the truth about a batch's lines.

Each segment has a log, to which replies, dead letters, cancellations and the deadline append. The
first entry of a line is its outcome, and each reader ignores later ones: entries are appended
twice if a response is lost, and a cancelled line may still be replied to.
"""

import json
from typing import NamedTuple

from contract.messages import Json
from gateway.jobs.model import JobOutcome, JobStatus, outcome_to_json
from gateway.jobs.search import CANCELLED_CODE
from gateway.json_text import encode_any_json


class LineEnd(NamedTuple):
    """The end of a line. Lines count from 1.

    `model` is the entry of the catalogue that the line was sent to; None if it was not sent.
    """

    number: int
    model: str | None
    outcome: Json

    @property
    def status(self) -> str:
        """The final status of the line."""
        return str(self.outcome["status"])

    @property
    def code(self) -> str | None:
        """The code of the line's error, or `cancelled`; None for a line that succeeded."""
        if self.status == JobStatus.CANCELLED:
            return CANCELLED_CODE
        error = self.outcome.get("error") or self.outcome.get("reply", {}).get("error")
        return str(error["code"]) if error else None


def encode_end(number: int, outcome: JobOutcome, model: str | None = None) -> bytes:
    """Return the entry about the end of a line, without a line end."""
    sent_to = {} if model is None else {"model": model}
    entry = {"n": number, **sent_to, "outcome": outcome_to_json(outcome)}
    return encode_any_json(entry)


def parse_end(entry: bytes) -> LineEnd | None:
    """Return the end of a line from its entry; None for what is no entry."""
    try:
        value = json.loads(entry)
        end = LineEnd(value["n"], value.get("model"), value["outcome"])
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None
    return end if type(end.number) is int and isinstance(end.outcome, dict) else None
