"""The result of checking one claim of the smoke test."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FindingResult(StrEnum):
    """What the smoke test found out about a claim.

    Attributes:
        HELD: The claim is true.
        FAILED: The claim is false, and the deployment needs a repair.
        DOES_NOT_HOLD: The claim is false, and the system works without it.
        NOT_APPLICABLE: The claim could not be checked here.
    """

    HELD = "held"
    FAILED = "failed"
    DOES_NOT_HOLD = "does not hold"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one claim, and what was observed."""

    claim: str
    result: FindingResult
    text: str

    @property
    def line(self) -> str:
        """The finding as one line for `smoke-test.sh`: result, claim and text between tabs."""
        text = " ".join(self.text.split())
        return f"{self.result}\t{self.claim}\t{text}"


def print_findings(findings: Iterable[Finding]) -> None:
    """Print each finding on a line as soon as it is known."""
    for finding in findings:
        sys.stdout.write(f"{finding.line}\n")
        sys.stdout.flush()
