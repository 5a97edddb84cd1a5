"""Run the deployment's scripts with fake versions of programs such as az and kubectl."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.infra import fake_cloud
from tests.infra.azure_outputs import REGION
from tests.infra.deployment import ROOT

VALUES = {
    "AZURE_ENV_NAME": "trial",
    "AZURE_LOCATION": "swedencentral",
    "ALERT_EMAIL": "operators@example.org",
    "AZURE_RESOURCE_GROUP": "rg-trial",
    "AZURE_TENANT_ID": "33333333-3333-3333-3333-333333333333",
    "AZURE_CONTAINER_REGISTRY_ENDPOINT": "crtrial.azurecr.io",
    "AZURE_AKS_CLUSTER_NAME": "aks-trial",
    "GATEWAY_NAME": "func-trial",
    "GATEWAY_BASE_URL": "https://func-trial.azurewebsites.net",
    "KEY_VAULT_NAME": "kv-trial",
    "WORKER_HOST": "aks",
    "GPU_SHARING": "none",
    "USE_SPOT": "true",
    "WORKER_CLIENT_ID": "11111111-1111-1111-1111-111111111111",
    "KEDA_CLIENT_ID": "22222222-2222-2222-2222-222222222222",
    "SERVICE_BUS_NAMESPACE": "sb-trial",
    "SERVICE_BUS_HOST": "sb-trial.servicebus.windows.net",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=1;IngestionEndpoint=https://i/",
    "PAYLOAD_ACCOUNT": "stpaytrial",
    "PAYLOAD_ENDPOINT": "https://stpaytrial.blob.core.windows.net/",
}


@dataclass(frozen=True)
class ScriptRunner:
    """Runs the deployment scripts of the repository `root`, with the fake programs in `bin`."""

    root: Path
    bin: Path

    def run(
        self, script: str, *arguments: str, typed: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with `typed` as its standard input, and return the ended process."""
        return subprocess.run(
            [self.root / "infra" / "scripts" / script, *arguments],
            input=typed,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a script is run.

        They put the fake programs on PATH. They also make the script repeat a failed call up to 5
        times, without a delay.
        """
        path = f"{self.bin}:{os.environ['PATH']}"
        retries = {"RETRY_SECONDS": "0", "RETRY_COUNT": "5"}
        return {"PATH": path, "HOME": str(self.bin), "PYTHON": sys.executable, **retries}

    def check_output(self, script: str, *arguments: str, **environment: str) -> str:
        ended = self.run(script, *arguments, **environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def check_error(self, script: str, *arguments: str, **environment: str) -> str:
        ended = self.run(script, *arguments, **environment)
        assert ended.returncode == 1, ended.stderr
        return ended.stderr

    @property
    def state(self) -> dict[str, Any]:
        return fake_cloud.state_of(self.bin)

    def update_state(self, **parts: object) -> None:
        state = self.state
        for name, part in parts.items():
            state[name] = state.get(name, {}) | part if isinstance(part, dict) else part
        (self.bin / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def calls(self, *words: str) -> list[list[str]]:
        return [each for each in fake_cloud.calls(self.bin) if each[: len(words)] == list(words)]


def make_checkout(root: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "build", "local.settings.json", ".venv*")
    for folder in ("infra", "worker", "functions"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for file in ("pyproject.toml", "local.settings.example.json", ".dockerignore"):
        shutil.copy(ROOT / file, root / file)
    (root / ".gitignore").write_text("build/\n__pycache__/\n")
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", "All")):
        author = ("-c", "user.name=T", "-c", "user.email=t@example.org")
        subprocess.run(["git", *author, *command], cwd=root, check=True)


def install_scripts(checkout: Path, folder: Path, **values: str) -> ScriptRunner:
    """Write fake programs such as az into `folder`, and return a runner for the scripts."""
    fake_cloud.install(folder, {"values": VALUES | values, "group": True, **REGION})
    return ScriptRunner(checkout, folder)
