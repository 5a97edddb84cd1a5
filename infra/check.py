"""Check the deployment files without Azure (`./dev check infra`).

The environment variable INFRA_CHECKS is the folder of the programs that check Bicep, Kubernetes
manifests and azure.yaml. If the variable is not set, these checks are left out. For each check that
is left out, this program prints a command of the official tool, which does the same check. In CI, a
check that is left out is an error.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
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


class CheckerMissingError(Exception):
    """A check program is not installed. The error message contains a command to use instead."""


@dataclass(frozen=True)
class Tools:
    """The folder `bin` of the linters, and the folder `checks` of the other check programs.

    `checks` is None if the environment variable INFRA_CHECKS is not set.
    """

    bin: Path
    checks: Path | None

    def installed(self, name: str) -> str:
        """Return the path of a program that is installed in this Python environment."""
        return str(self.bin / name)

    def checker(self, name: str, instead: str) -> list[str]:
        """Return the command that starts a check program from the folder `checks`.

        Raises:
            CheckerMissingError: if the program does not exist. The error message contains
                `instead`, which is a command that does the same check.
        """
        if self.checks is None:
            raise CheckerMissingError(
                "the environment variable INFRA_CHECKS is not set; set it to the folder of the "
                f"checkers, or run {instead}"
            )
        path = self.checks / name
        if not path.is_file():
            raise CheckerMissingError(
                f"the checker {path} is not installed; install it, or run {instead}"
            )
        return [sys.executable, str(path)]

    def kubectl(self) -> str:
        """Return the path of kubectl. Raises CheckerMissingError if kubectl is not installed."""
        if found := shutil.which("kubectl"):
            return found
        raise CheckerMissingError(
            "kubectl is not installed; install kubectl, which renders the manifests"
        )


Check = Callable[[Tools], None]


def run(*command: str | Path, text: str | None = None) -> str:
    """Run a command and return its output. Raises CalledProcessError if it fails."""
    return subprocess.run(  # noqa: S603  runs only commands from this file
        list(map(str, command)), input=text, capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def check_bicep(tools: Tools) -> None:
    """Check the types, names and references in the Bicep templates."""
    run(*tools.checker("bicheck.py", "az bicep build --file infra/main.bicep"), INFRA)


def check_azure_yaml(tools: Tools) -> None:
    """Check azure.yaml against its published schema."""
    run(*tools.checker("azdcheck.py", "azd config show in this folder"), ROOT / "azure.yaml")


def render(tools: Tools, overlay: Path) -> str:
    """Return the Kubernetes manifests that kustomize renders from an overlay, as YAML text."""
    return run(tools.kubectl(), "kustomize", overlay)


def check_manifests(tools: Tools) -> None:
    """Check the manifests of every overlay against the schemas of Kubernetes and KEDA."""
    checker = tools.checker("k8scheck.py", "kubectl apply --dry-run=server -k infra/k8s/overlays/…")
    for overlay in OVERLAYS:
        run(*checker, "--kubernetes", KUBERNETES, "-", text=render(tools, overlay))


def check_dockerfile(tools: Tools) -> None:
    """Check the Dockerfile with hadolint."""
    run(tools.installed("hadolint"), "worker/Dockerfile")


def check_shell(tools: Tools) -> None:
    """Check every shell script with shellcheck."""
    run(tools.installed("shellcheck"), "-x", "dev", ".ci/run", *SCRIPTS)


def check_yaml_style(tools: Tools) -> None:
    """Check azure.yaml and the YAML files in infra/ and .github/ with yamllint."""
    files = [file for file in YAML_FILES if (ROOT / file).exists()]
    run(tools.installed("yamllint"), "--strict", "-c", INFRA / ".yamllint.yaml", *files)


def check_schemas(tools: Tools) -> None:
    """Check the CI workflows and the compose file against their published schemas."""
    checker = tools.installed("check-jsonschema")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    run(checker, "--builtin-schema", "vendor.github-workflows", *workflows)
    run(checker, "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml")


def check_checkov(tools: Tools) -> None:
    """Run checkov's security rules, except the rules that infra/checkov.yaml excludes."""
    skips: dict[str, str] = yaml.safe_load((INFRA / "checkov.yaml").read_text(encoding="utf-8"))
    command = [tools.installed("checkov"), "--compact", "--quiet", "--skip-download", "-o", "json"]
    command += ["--skip-check", ",".join(skips)] if skips else []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        templates, manifests = Path(folder, "bicep"), Path(folder, "spot.yaml")
        for path in (*INFRA.glob("*.bicep"), *INFRA.glob("modules/*.bicep")):
            target = templates / path.relative_to(INFRA)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(simplify_bicep(path.read_text(encoding="utf-8")), encoding="utf-8")
        manifests.write_text(render(tools, INFRA / "k8s" / "overlays" / "spot"), encoding="utf-8")
        for framework, place in (
            ("bicep", ("-d", str(templates))),
            ("dockerfile", ("-f", "worker/Dockerfile")),
            ("kubernetes", ("-f", str(manifests))),
        ):
            arguments = [*command, "--framework", framework, *place]
            found = subprocess.run(  # noqa: S603  as above
                arguments, capture_output=True, text=True, check=False, cwd=ROOT
            )
            failures += _checkov_failures(found.stdout)
    if failures:
        raise subprocess.CalledProcessError(1, command, "\n".join(failures) + "\n")


def simplify_bicep(text: str) -> str:
    """Rewrite a Bicep template so that checkov can parse it. Return the new text.

    The parser of checkov does not support four forms: imported types, types of arrays and maps,
    calls with one argument on each line, as Bicep's formatter writes them, and functions that make
    objects. This function removes or replaces them. The new template describes the same resources
    with the same values, except environment variables.
    """
    text = re.sub(r"^import .*\n|^@export\(\)\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^type \w+ = \{ \*: string \}$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(param \w+) Tags$", r"\1 object", text, flags=re.MULTILINE)
    text = re.sub(r"^(param \w+) Token$", r"\1 string", text, flags=re.MULTILINE)
    text = re.sub(r"^(param \w+) string\[\]", r"\1 array", text, flags=re.MULTILINE)
    text = re.sub(r"\btoObject\(.*\)$", "{}", text, flags=re.MULTILINE)
    text = re.sub(r"\bmap\(.*, each => \{.*\}\)$", "[]", text, flags=re.MULTILINE)
    return re.sub(
        r"\(\n((?:[^()\n]+\n)+)\s*\)",
        lambda call: f"({' '.join(line.strip() for line in call[1].splitlines())})",
        text,
    )


def _checkov_failures(text: str) -> Iterator[str]:
    reports = json.loads(text)
    for report in reports if isinstance(reports, list) else [reports]:
        summary = report.get("summary", report)
        if summary.get("parsing_errors"):
            yield f"{summary['parsing_errors']} files could not be parsed"
        if not summary.get("passed"):
            yield f"no check passed: {report}"
        for failure in report.get("results", {}).get("failed_checks", ()):
            line = f"{failure['file_path']}:{failure['file_line_range'][0]}"
            yield f"{line}: {failure['check_id']} {failure['check_name']} ({failure['resource']})"


CHECKS: tuple[Check, ...] = (
    check_bicep,
    check_azure_yaml,
    check_manifests,
    check_dockerfile,
    check_shell,
    check_yaml_style,
    check_schemas,
    check_checkov,
)


def main() -> int:
    """Run all checks and print the result of each check. Return 1 if any check failed."""
    checks = os.environ.get("INFRA_CHECKS")
    tools = Tools(Path(sys.executable).parent, Path(checks).resolve() if checks else None)
    failed = False
    for check in CHECKS:
        try:
            check(tools)
            outcome = "passed"
        except CheckerMissingError as missing:
            outcome = f"left out: {missing}"
            failed |= "CI" in os.environ
        except subprocess.CalledProcessError as error:
            outcome = f"failed\n{error.stdout or ''}{error.stderr or ''}"
            failed = True
        sys.stdout.write(f"{check.__name__.removeprefix('check_')}: {outcome}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
