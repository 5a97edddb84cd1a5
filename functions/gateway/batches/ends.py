"""The entries of the logs of ends, which are the truth about a batch's lines.

Each segment has a log, to which replies, dead letters, cancellations and the deadline append. The
first entry of a line is its outcome, and each reader ignores later ones: entries are appended
twice if a response is lost, and a cancelled line may still be replied to.
"""

import json

from contract.messages import Json
from gateway.jobs.model import JobOutcome, outcome_to_json


def encode_end(number: int, outcome: JobOutcome) -> bytes:
    """Return the entry about the end of a line, without a line end. Lines count from 1."""
    entry = {"n": number, "outcome": outcome_to_json(outcome)}
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def parse_end(entry: bytes) -> tuple[int, Json] | None:
    """Return a line's number and its outcome as JSON; None for what is no entry."""
    try:
        value = json.loads(entry)
        number, outcome = value["n"], value["outcome"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (number, outcome) if type(number) is int and isinstance(outcome, dict) else None
