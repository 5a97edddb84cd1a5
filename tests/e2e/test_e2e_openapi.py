"""A few hundred requests that /openapi.json allows, and that it does not.

`./dev conformance rest` sends thousands.
"""

import pytest

from tests.conformance.rest.schemathesis_run import fuzz
from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(120)]


def test_answers_are_what_the_document_says(system: System) -> None:
    outcome = fuzz(system.url, 5, "--seed", "1")
    assert outcome.has_passed, outcome.report
    assert outcome.request_count >= 300
