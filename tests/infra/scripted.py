"""A checkout whose scripts run among programs that stand for Azure's."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.infra import fake_cloud
from tests.infra.deployment import ROOT

VALUES = {
    "AZURE_ENV_NAME": "trial",
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
    "PAYLOAD_ACCOUNT": "stpaytrial",
    "PAYLOAD_ENDPOINT": "https://stpaytrial.blob.core.windows.net/",
}


@dataclass(frozen=True)
class Place:
    """A checkout with scripts, and the programs that they call."""

    root: Path
    bin: Path

    def run(
        self, script: str, *arguments: str, typed: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A script's output, exit code and complaints."""
        return subprocess.run(
            [self.root / "infra" / "scripts" / script, *arguments],
            input=typed,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """No pause between tries, and none of the tests' own settings."""
        path = f"{self.bin}:{os.environ['PATH']}"
        return {"PATH": path, "PATIENCE_SECONDS": "0", "PATIENCE_TRIES": "5", "HOME": str(self.bin)}

    def done(self, script: str, *arguments: str, **environment: str) -> str:
        """The output of a script that succeeds."""
        ended = self.run(script, *arguments, **environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    @property
    def state(self) -> dict[str, Any]:
        return fake_cloud.state_of(self.bin)

    def change(self, **parts: object) -> None:
        state = self.state
        for name, part in parts.items():
            state[name] = state.get(name, {}) | part if isinstance(part, dict) else part
        (self.bin / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def called(self, *words: str) -> list[list[str]]:
        """The calls that begin so."""
        return [each for each in fake_cloud.calls(self.bin) if each[: len(words)] == list(words)]


def check_out(root: Path) -> None:
    """The deployment's files as a repository of their own, with one commit and nothing changed."""
    ignore = shutil.ignore_patterns("__pycache__", "build", "local.settings.json", ".venv*")
    for folder in ("infra", "worker", "functions"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for file in ("pyproject.toml", "local.settings.example.json"):
        shutil.copy(ROOT / file, root / file)
    (root / ".gitignore").write_text("build/\n__pycache__/\n")
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", "All")):
        who = ("-c", "user.name=T", "-c", "user.email=t@example.org")
        subprocess.run(["git", *who, *command], cwd=root, check=True)


def place_in(checkout: Path, folder: Path, **values: str) -> Place:
    """The scripts of a checkout, with the programs in a folder of their own."""
    fake_cloud.install(folder, {"values": VALUES | values, "group": True})
    return Place(checkout, folder)
