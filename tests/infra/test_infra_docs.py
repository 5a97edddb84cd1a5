"""Test the documents about the deployment: run their commands, compare their tables."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.settings import BrokerKind
from gateway.settings import GatewaySettings
from loosely.cli import app
from loosely.cli.up import choose_parts, parse_scaling
from tests.infra import fake_cloud
from tests.infra.deployment import ROOT
from tests.infra.readings import names_read
from tests.infra.script_runner import VALUES, ScriptRunner
from tests.infra.settings import (
    STORAGE_PROVIDER,
    STORAGE_PROVIDER_NAMES,
    VISIBILITY_TIMEOUTS,
)
from worker.settings import WorkerSettings

DOCUMENTS = (
    "docs/tutorials/first-deployment.md",
    "docs/how-to/deploy.md",
    "docs/how-to/brokers.md",
    "docs/how-to/on-premises.md",
    "infra/README.md",
    "docs/how-to/local-development.md",
    "docs/how-to/scaling.md",
    "docs/how-to/cost.md",
    "docs/explanation/capacity.md",
)

AZD, AZ, CLUSTER = "needs azd and a subscription", "needs a subscription", "needs a cluster"
MICROSOFT = "needs Microsoft's tools or a package registry"
NOT_RUN = {
    "azd auth login": AZD,
    "azd env new loosely-trial": AZD,
    "azd env set": AZD,
    "azd up": AZD,
    "azd deploy": AZD,
    "azd provision": AZD,
    "git checkout": "changes the files of the repository",
    "az login": AZ,
    "az aks install-cli": AZ,
    "az acr repository show-tags": AZ,
    "az aks get-upgrades": AZ,
    "az aks nodepool list": AZ,
    "az servicebus queue delete": AZ,
    "az containerapp delete": AZ,
    "az functionapp restart": AZ,
    "az keyvault secret show": AZ,
    "az keyvault secret set": AZ,
    "kubectl --kubeconfig infra/build/kubeconfig --namespace loosely": CLUSTER,
    "kubectl create ": CLUSTER,
    "kubectl --namespace loosely": CLUSTER,
    "kubectl apply ": CLUSTER,
    "kubectl kustomize ": "tests/infra/test_infra_on_premises.py renders the overlay",
    "docker build ": MICROSOFT,
    "apt-get install ": "changes the machine",
    "LOOSELY_URL=https://loosely.example": CLUSTER,
    '"${EDITOR:-vi}" api-keys.json': "a person edits this file",
    "umask 077": "is part of the command below it",
    "rm api-keys.json": "is part of the command above it",
    "export LOOSELY_API_KEY=lsy_…": "is the key that keys.sh printed",
    'export LOOSELY_URL="$(azd env get-value API_URL)"': AZD,
    "curl ": "tests/e2e and the smoke test send these requests",
    "./dev scale-model": "lab/tests run it and compare its output",
    "./dev cost": "lab/tests run it and compare its output",
    "./dev share-model": "lab/tests run it and compare its output",
    "./dev loosely submit ": "tests/e2e run the command line against a whole system",
    "./dev test tests/infra": "runs this test",
    "./dev check infra": ".ci/run runs all of it",
    "./dev lock": MICROSOFT,
    "./dev bench operations": "lab/tests/test_operations.py counts with its system",
    "./dev bench batches": "lab/tests/test_benchmark_batches.py measures with its system",
    "./dev bench hops": "lab/tests/test_hops.py measures with its system",
    "./dev bench cpu": "measures for minutes; tests/e2e run such a system",
    "infra/scripts/smoke-test.sh": "tests/e2e/test_e2e_smoke.py runs it against a whole system",
    "ssh -N": "needs a second machine",
    "npm install --global azure-functions-core-tools@4 azurite": MICROSOFT,
    ".venv-functions/bin/pip install -r functions/requirements.txt": MICROSOFT,
    "azurite --location": MICROSOFT,
    "cd functions && . ../.venv-functions/bin/activate && func start": MICROSOFT,
    "python3 -m venv .venv-functions": "tests/e2e makes this environment for the package",
}
# This command asks for a confirmation on stdin.
TEARDOWN = "infra/scripts/teardown.sh"
PROGRAMS = r"(?:\./dev|infra/scripts/[\w.-]+|az|azd|kubectl|func|azurite|docker|python3?|npm)"


def blocks(text: str) -> Iterator[str]:
    for language, block in re.findall(
        r"^```(sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    ):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+", " ", line).strip()
            if language == "console":
                if command.startswith("$ "):
                    yield command[2:]
            elif command and not command.startswith("#"):
                yield command


def mentioned(text: str) -> Iterator[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for command in re.findall(rf"`((?:[A-Z_]+=[^\s`]+ )*{PROGRAMS}(?: [^`]+)?)`", prose):
        words = command.split()
        if "…" not in command and (len(words) > 2 or words[0] == "azd" or "=" in words[0]):
            yield command


def commands() -> list[str]:
    found: dict[str, None] = {}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        found |= dict.fromkeys([*blocks(text), *mentioned(text)])
    return list(found)


def reason_not_run(command: str) -> str | None:
    for beginning, reason in NOT_RUN.items():
        if command == beginning or command.startswith(beginning.rstrip() + " "):
            return reason
    return None


RUN_HERE = [command for command in commands() if reason_not_run(command) is None]


def test_each_skipped_command_is_in_a_document() -> None:
    used = {reason for command in commands() if (reason := reason_not_run(command))}
    assert used == set(NOT_RUN.values())
    for beginning in NOT_RUN:
        begins = beginning.rstrip()
        assert any(
            command == begins or command.startswith(begins + " ") for command in commands()
        ), f"no document has the command {beginning!r}"


@pytest.mark.parametrize("command", RUN_HERE)
def test_documented_command_succeeds(command: str, scripts: ScriptRunner, tmp_path: Path) -> None:
    words = command.split()
    if words[:2] == ["./dev", "loosely"]:
        run_loosely(words[2:])
    elif words[:2] == ["./dev", "up"]:
        check_options_of_up(words[2:])
    elif words[:2] == ["./dev", "infra"]:
        run_shell(f"PYTHONPATH=functions {sys.executable} -m infra.generate", scripts, tmp_path)
    elif words[:2] == ["./dev", "package"]:
        run_shell(f"{sys.executable} -m loosely package infra/build", scripts, tmp_path)
    elif command == TEARDOWN:
        assert scripts.run("teardown.sh", typed=f"{VALUES['AZURE_ENV_NAME']}\n").returncode == 0
    else:
        run_shell(command, scripts, tmp_path)


def run_loosely(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"})
    assert done.exit_code == 0, done.output


def check_options_of_up(arguments: list[str]) -> None:
    """Check that `loosely up` accepts the options `arguments`, without starting the system."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if parts := options.pop("--only", ""):
        assert choose_parts([parts], [])
    if scale := options.pop("--scale", ""):
        assert parse_scaling(scale, 5, 1, 20)
    if broker := options.pop("--broker", ""):
        assert broker in set(BrokerKind)
    assert not options


def run_shell(command: str, scripts: ScriptRunner, tmp_path: Path) -> None:
    (scripts.root / "net.safetensors").write_bytes(b"weights")
    scripts.update_state(images={"worker:868de4712ab3": "sha256:0"})
    ended = subprocess.run(
        ["sh", "-euc", command],
        cwd=scripts.root,
        env=scripts.environment() | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"


# Choices that only the scripts read.
DEFAULTS_OF_SCRIPTS = {"CPU_TORCH_INDEX": "", "CHECK_REGION": "true"}


def test_choices_have_the_defaults_of_the_template() -> None:
    text = (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8")
    section = text.partition("## Choices")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (\S+) \|", section, re.MULTILINE))
    parameters = (ROOT / "infra" / "main.parameters.json").read_text(encoding="utf-8")
    defaults = dict(re.findall(r"\$\{([A-Z_]+)=?([^}]*)\}", parameters))
    by_azd = {"AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID", "AZURE_PRINCIPAL_TYPE"}
    by_scripts = {"WORKER_IMAGE", "WORKER_CPU_IMAGE", "BUDGET_START", "NODE_POOLS"}
    for_scripts = {"NODE_CACHE", "CPU_TORCH_INDEX", "CHECK_REGION"}
    assert documented.keys() - for_scripts == defaults.keys() - by_azd - by_scripts
    for name, shown in documented.items():
        default = defaults.get(name, DEFAULTS_OF_SCRIPTS.get(name, "false"))
        missing = "asked" if name == "ALERT_EMAIL" else "none"
        assert shown.strip("`") == (default or missing), name


def test_each_alert_is_explained() -> None:
    text = (ROOT / "docs/how-to/operations.md").read_text(encoding="utf-8")
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    named = {"availability", *re.findall(r"^    name: '([\w-]+)'$", alerts, re.MULTILINE)}
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+?)(?: \*)? \| .+ \| .+ \|$", section, re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", " ".join(rows))) == named


def test_example_settings_contain_every_setting() -> None:
    example = json.loads((ROOT / "local.settings.example.json").read_text(encoding="utf-8"))
    read = {name for name in names_read(GatewaySettings) if "__" not in name}
    host = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}
    host |= {"AzureWebJobsFeatureFlags", "AzureWebJobsDisableHomepage"}
    host |= {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", "PYTHON_ENABLE_INIT_INDEXING"}
    host |= {f"{STORAGE_PROVIDER}{name}" for name in STORAGE_PROVIDER_NAMES}
    assert example["Values"].keys() == read | host
    for name, timeout in VISIBILITY_TIMEOUTS.items():
        assert example["Values"][f"{STORAGE_PROVIDER}{name}"] == timeout
    # The gateway accepts the file after the key is filled in.
    filled = example["Values"] | {
        "REPLY_TOKEN_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    }
    assert GatewaySettings.from_env(filled)


_OF_THE_HOST = {
    "AzureWebJobsStorage",
    "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT",
    "FUNCTIONS_WORKER_RUNTIME",
    "PYTHON_ENABLE_INIT_INDEXING",
}
_OF_THE_S3_LIBRARY = {
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"),
}


@pytest.mark.parametrize("program", ["gateway", "worker"])
def test_every_setting_is_documented(program: str) -> None:
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    section = text.partition(f"## {program.title()}\n")[2].partition("\n## ")[0]
    documented = set[str]()
    for first_column in re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE):
        documented |= set(re.findall(r"`(\w+)`", first_column))
    read = names_read(GatewaySettings if program == "gateway" else WorkerSettings)
    assert documented - _OF_THE_HOST - _OF_THE_S3_LIBRARY == read


def test_stand_ins_come_first_on_the_search_path(scripts: ScriptRunner) -> None:
    found = shutil.which("az", path=scripts.environment()["PATH"])
    assert found == os.fspath(scripts.bin / "az")
    assert not fake_cloud.calls(scripts.bin)
