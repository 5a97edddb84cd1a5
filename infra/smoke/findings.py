"""Define the results of the smoke test's checks, and print them.

A claim is a sentence about the deployment, which the smoke test checks.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FindingResult(StrEnum):
    """Whether a claim about the deployment is true.

    Attributes:
        HELD: The claim is true.
        FAILED: The claim is false, and the deployment needs a repair.
        DOES_NOT_HOLD: The claim is false, but nothing needs a repair.
        NOT_APPLICABLE: The claim could not be checked in this deployment.
    """

    HELD = "held"
    FAILED = "failed"
    DOES_NOT_HOLD = "does not hold"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one claim, which is a sentence about the deployment.

    Attributes:
        claim: The sentence.
        result: Whether the sentence is true.
        text: What was observed.
    """

    claim: str
    result: FindingResult
    text: str

    @property
    def line(self) -> str:
        """The result, the claim and what was observed, separated by tabs, for `smoke-test.sh`."""
        text = " ".join(self.text.split())
        return f"{self.result}\t{self.claim}\t{text}"


def print_findings(findings: Iterable[Finding]) -> None:
    """Print each finding on a line of its own, as soon as its check has ended."""
    for finding in findings:
        sys.stdout.write(f"{finding.line}\n")
        sys.stdout.flush()
