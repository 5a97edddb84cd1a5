"""Define the results of the smoke test's checks, and print them."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FindingResult(StrEnum):
    """Whether a claim about the deployment is true.

    `DOES_NOT_HOLD` is a false claim that needs no repair, `NOT_APPLICABLE` an unchecked one.
    """

    HELD = "held"
    FAILED = "failed"
    DOES_NOT_HOLD = "does not hold"
    NOT_APPLICABLE = "not applicable"


Observation = tuple[FindingResult, str]
"""The result of a check, and what the check observed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one claim, a sentence about the deployment, and what was observed."""

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
