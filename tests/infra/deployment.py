"""Read the files of a deployment: Bicep templates, Kubernetes manifests and model catalogues."""

import hashlib
import json
import re
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]

ON_PREMISES = "on-premises"
"""The overlay for a cluster without Azure."""

# Cached, because rendering is slow and most copies of the files have the same manifests.
_RENDERED: dict[tuple[str, str], list[Manifest]] = {}


@dataclass(frozen=True)
class DeploymentFiles:
    """Reads the deployment files in the folder `root`: the repository, or a copy of its files."""

    root: Path

    def text(self, path: str) -> str:
        """Return the text of a file. `path` is relative to `root`."""
        return (self.root / path).read_text(encoding="utf-8")

    @cached_property
    def catalogue(self) -> Any:
        return json.loads(self.text("infra/catalogue.json"))

    @cached_property
    def models(self) -> dict[str, Any]:
        return tomllib.loads(self.text("functions/contract/models.toml"))

    @cached_property
    def bicep(self) -> str:
        """All Bicep templates as one text, without comments."""
        files = sorted((self.root / "infra").rglob("*.bicep"))
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        return re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)

    def module(self, name: str) -> str:
        """Return the Bicep module with this name, without comments."""
        return re.sub(
            r"^\s*//.*$", "", self.text(f"infra/modules/{name}.bicep"), flags=re.MULTILINE
        )

    def rendered(self, overlay: str) -> list[Manifest]:
        folder = self.root / "infra" / "k8s"
        sources = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
        if (digest, overlay) not in _RENDERED:
            _RENDERED[digest, overlay] = render(folder / "overlays" / overlay)
        return _RENDERED[digest, overlay]

    @cached_property
    def overlays(self) -> dict[str, list[Manifest]]:
        """The manifests of each overlay for Azure, by the overlay's name."""
        folder = self.root / "infra" / "k8s" / "overlays"
        names = sorted(path.name for path in folder.iterdir() if path.name != ON_PREMISES)
        return {name: self.rendered(name) for name in names}


def render(folder: Path) -> list[Manifest]:
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The C loader is faster: each test of an error parses all overlays again.
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def find_named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name]
    return found


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def is_gpu(manifest: Manifest) -> bool:
    labels = manifest["metadata"].get("labels", {})
    return bool(labels.get("loosely.dev/device") == "gpu")
