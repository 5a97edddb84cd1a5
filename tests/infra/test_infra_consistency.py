"""Run the consistency checks on this repository."""

from collections.abc import Callable

import pytest

from contract.catalogue import Catalogue
from infra.check import simplify_bicep
from infra.generate import make_files
from tests.infra.consistency import CHECKS
from tests.infra.deployment import DeploymentFiles


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_deployment_files_pass_each_consistency_check(
    check: Callable[[DeploymentFiles], None], repository: DeploymentFiles
) -> None:
    check(repository)


def test_each_generated_deployment_file_is_up_to_date() -> None:
    for path, text in make_files(Catalogue.load()).items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} is out of date: run ./dev infra"
        )


def test_the_simplified_bicep_contains_only_syntax_that_checkov_can_parse() -> None:
    text = (
        "import { Tags, Token } from 'types.bicep'\nparam tags Tags\nparam token Token\n"
        "param names string[] = []\n"
        "var role = subscriptionResourceId(\n  'Microsoft.Authorization/roleDefinitions',\n"
        "  roles.acrPull\n)\n"
    )
    assert simplify_bicep(text) == (
        "param tags object\nparam token string\nparam names array = []\n"
        "var role = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', "
        "roles.acrPull)\n"
    )
