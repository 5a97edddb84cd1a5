"""`./dev check infra`: every check of the deployment files that needs no Azure.

The checkers of Bicep, Kubernetes manifests and azure.yaml are found by the variable INFRA_CHECKS.
Without it they are left out, with the command of the real compiler; under CI that is an error.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
INFRA = ROOT / "infra"
KUBERNETES = "1.36"
OVERLAYS = sorted(path.parent for path in (INFRA / "k8s" / "overlays").glob("*/kustomization.yaml"))
SCRIPTS = sorted((INFRA / "scripts").glob("*.sh"))
YAML_FILES = ["azure.yaml", "infra", ".github"]


class Missing(Exception):
    """A checker is not at hand; the text says what to do."""


@dataclass(frozen=True)
class Tools:
    """Where the programs are."""

    bin: Path
    checks: Path | None

    def ours(self, name: str) -> str:
        """A program of the environment that this runs in."""
        return str(self.bin / name)

    def checker(self, name: str, instead: str) -> list[str]:
        """The command of an offline checker."""
        if self.checks is None:
            raise Missing(f"INFRA_CHECKS is not set; run {instead}")
        path = self.checks / name
        if not path.is_file():
            raise Missing(f"{path} does not exist; run {instead}")
        return [sys.executable, str(path)]

    def kubectl(self) -> str:
        """kubectl, which renders the overlays."""
        if found := shutil.which("kubectl"):
            return found
        raise Missing("kubectl is not installed; install it to render the manifests")


Check = Callable[[Tools], None]


def run(*command: str | Path, text: str | None = None) -> str:
    """A command's output; CalledProcessError where it fails."""
    return subprocess.run(  # noqa: S603  commands of this file alone
        list(map(str, command)), input=text, capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def bicep(tools: Tools) -> None:
    """Types, names and references, against the compiler's own type data."""
    run(*tools.checker("bicheck.py", "az bicep build --file infra/main.bicep"), INFRA)


def azure_yaml(tools: Tools) -> None:
    """azure.yaml against its published schema."""
    run(*tools.checker("azdcheck.py", "azd config show in this folder"), ROOT / "azure.yaml")


def render(tools: Tools, overlay: Path) -> str:
    """An overlay as the cluster would get it."""
    return run(tools.kubectl(), "kustomize", overlay)


def manifests(tools: Tools) -> None:
    """Every overlay against the schemas of Kubernetes and KEDA."""
    checker = tools.checker("k8scheck.py", "kubectl apply --dry-run=server -k infra/k8s/overlays/…")
    for overlay in OVERLAYS:
        run(*checker, "--kubernetes", KUBERNETES, "-", text=render(tools, overlay))


def dockerfile(tools: Tools) -> None:
    """hadolint."""
    run(tools.ours("hadolint"), "worker/Dockerfile")


def shell(tools: Tools) -> None:
    """shellcheck over every script."""
    run(tools.ours("shellcheck"), "-x", "dev", ".ci/run", *SCRIPTS)


def yaml_style(tools: Tools) -> None:
    """yamllint."""
    files = [file for file in YAML_FILES if (ROOT / file).exists()]
    run(tools.ours("yamllint"), "--strict", "-c", INFRA / ".yamllint.yaml", *files)


def schemas(tools: Tools) -> None:
    """The workflow and the compose file against their schemas."""
    checker = tools.ours("check-jsonschema")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    run(checker, "--builtin-schema", "vendor.github-workflows", *workflows)
    run(checker, "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml")


def checkov(tools: Tools) -> None:
    """Security rules; infra/checkov.yaml gives the reason of each that is left out."""
    skips: dict[str, str] = yaml.safe_load((INFRA / "checkov.yaml").read_text(encoding="utf-8"))
    rendered = INFRA / "build" / "checkov"
    rendered.mkdir(parents=True, exist_ok=True)
    (rendered / "spot.yaml").write_text(render(tools, INFRA / "k8s" / "overlays" / "spot"))
    command = [tools.ours("checkov"), "--compact", "--quiet", "--skip-download", "-o", "json"]
    command += ["--skip-check", ",".join(skips)] if skips else []
    failures: list[str] = []
    for framework, place in (
        ("bicep", ("-d", "infra")),
        ("dockerfile", ("-f", "worker/Dockerfile")),
        ("kubernetes", ("-d", str(rendered))),
    ):
        arguments = [*command, "--framework", framework, *place]
        found = subprocess.run(  # noqa: S603  as above
            arguments, capture_output=True, text=True, check=False, cwd=ROOT
        )
        failures += _checkov_failures(found.stdout)
    if failures:
        raise subprocess.CalledProcessError(1, command, "\n".join(failures) + "\n")


def _checkov_failures(text: str) -> Iterator[str]:
    reports = json.loads(text)
    for report in reports if isinstance(reports, list) else [reports]:
        summary = report.get("summary", report)
        if summary.get("parsing_errors"):
            yield f"{summary['parsing_errors']} files could not be parsed"
        if not summary.get("passed"):
            yield f"nothing was checked: {report}"
        for failure in report.get("results", {}).get("failed_checks", ()):
            where = f"{failure['file_path']}:{failure['file_line_range'][0]}"
            yield f"{where}: {failure['check_id']} {failure['check_name']} ({failure['resource']})"


CHECKS: tuple[Check, ...] = (
    bicep,
    azure_yaml,
    manifests,
    dockerfile,
    shell,
    yaml_style,
    schemas,
    checkov,
)


def main() -> int:
    """Run all checks, whatever fails; 1 where any did."""
    checks = os.environ.get("INFRA_CHECKS")
    tools = Tools(Path(sys.executable).parent, Path(checks).resolve() if checks else None)
    failed = False
    for check in CHECKS:
        try:
            check(tools)
            outcome = "passed"
        except Missing as missing:
            outcome = f"left out: {missing}"
            failed |= "CI" in os.environ
        except subprocess.CalledProcessError as error:
            outcome = f"failed\n{error.stdout or ''}{error.stderr or ''}"
            failed = True
        sys.stdout.write(f"{check.__name__}: {outcome}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
