"""The fixture that chooses the form in which Functions hosts run their apps."""

from collections.abc import Iterator

import pytest

from functions_tests.process.host_process import IN_PROCESS, Form


@pytest.fixture(scope="module", autouse=True)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let hosts run apps in their own process, unless a test is marked with another form."""
    chosen: str = getattr(request, "param", IN_PROCESS)
    Form.choose(chosen)
    yield chosen
    Form.choose(IN_PROCESS)
