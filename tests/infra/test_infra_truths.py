"""The deployment's files agree with one another and with the code."""

from collections.abc import Callable

import pytest

from contract.catalogue import Catalogue
from infra.generate import files
from tests.infra.deployment import Deployment
from tests.infra.truths import TRUTHS


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.__name__)
def test_it_holds(truth: Callable[[Deployment], None], repository: Deployment) -> None:
    truth(repository)


def test_what_is_made_from_the_catalogue_is_up_to_date() -> None:
    for path, text in files(Catalogue.load()).items():
        assert path.read_text(encoding="utf-8") == text, f"run ./dev infra: {path.name} is stale"
