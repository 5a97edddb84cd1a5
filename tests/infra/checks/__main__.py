"""Check the deployment files without Azure (`./dev check infra`).

`az bicep build`, `azd` and `kubectl apply --dry-run=server` find more, but they need Azure or a
cluster.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import yaml

from tests.infra.checks.azure_yaml import check_azure_yaml
from tests.infra.checks.bicep import check_template, simplify
from tests.infra.checks.kubernetes import check_manifests

BIN = Path(sys.executable).parent


class CheckFailedError(Exception):
    """A check found errors. Its message describes them."""


def run(root: Path, *command: str | Path, is_checked: bool = True) -> str:
    """Run a command in `root` and return its output. Raises CheckFailedError if it fails."""
    found = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=root
    )
    if is_checked and found.returncode:
        raise CheckFailedError(found.stdout + found.stderr)
    return found.stdout


def fail_on(errors: Iterable[str]) -> None:
    if found := list(errors):
        raise CheckFailedError("\n".join(found))


def list_templates(root: Path) -> list[Path]:
    return [*root.glob("infra/*.bicep"), *root.glob("infra/modules/*.bicep")]


def render(root: Path, overlay: Path) -> str:
    if not (kubectl := shutil.which("kubectl")):
        raise CheckFailedError("kubectl is not installed; install it, it renders the manifests")
    return run(root, kubectl, "kustomize", overlay)


def bicep(root: Path) -> None:
    fail_on(
        f"{path.relative_to(root)}: {error}"
        for path in list_templates(root)
        for error in check_template(path)
    )


def azure_yaml(root: Path) -> None:
    fail_on(check_azure_yaml(root / "azure.yaml"))


def manifests(root: Path) -> None:
    """Check the manifests of every overlay against the schemas of Kubernetes and KEDA."""
    for path in sorted(root.glob("infra/k8s/overlays/*/kustomization.yaml")):
        name = path.parent.name
        fail_on(f"{name}: {error}" for error in check_manifests(render(root, path.parent)))


def dockerfile(root: Path) -> None:
    gateway = "infra/k8s/overlays/on-premises/gateway.Dockerfile"
    run(root, BIN / "hadolint", "worker/Dockerfile", gateway)


def shell(root: Path) -> None:
    scripts = sorted(root.glob("infra/scripts/*.sh"))
    run(root, BIN / "shellcheck", "-x", "dev", ".ci/run", *scripts)


def yaml_style(root: Path) -> None:
    """Check azure.yaml and the YAML files in infra/ and .github/ with yamllint."""
    files = ("azure.yaml", "infra", ".github")
    run(root, BIN / "yamllint", "--strict", "-c", "infra/.yamllint.yaml", *files)


def schemas(root: Path) -> None:
    """Check the CI workflows and the compose file against their published schemas."""
    checker = BIN / "check-jsonschema"
    workflows = sorted(root.glob(".github/workflows/*.yml"))
    run(root, checker, "--builtin-schema", "vendor.github-workflows", *workflows)
    run(root, checker, "--builtin-schema", "vendor.compose-spec", "infra/compose.yaml")


def checkov(root: Path) -> None:
    """Run checkov's security rules, except the rules that checkov.yaml excludes."""
    skips = yaml.safe_load((Path(__file__).parent / "checkov.yaml").read_text(encoding="utf-8"))
    command: list[str | Path] = [
        BIN / "checkov",
        "--compact",
        "--quiet",
        "--skip-download",
        "-o",
        "json",
    ]
    command += ["--skip-check", ",".join(skips)]
    with tempfile.TemporaryDirectory() as folder:
        rendered = Path(folder, "spot.yaml")
        rendered.write_text(render(root, root / "infra/k8s/overlays/spot"), encoding="utf-8")
        for path in list_templates(root):
            target = Path(folder, "templates") / path.relative_to(root / "infra")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(simplify(path.read_text(encoding="utf-8")), encoding="utf-8")
        for framework, option, place in (
            ("bicep", "-d", Path(folder, "templates")),
            ("dockerfile", "-f", Path("worker/Dockerfile")),
            ("kubernetes", "-f", rendered),
        ):
            report = run(root, *command, "--framework", framework, option, place, is_checked=False)
            fail_on(_checkov_failures(report))


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


Check = Callable[[Path], None]
CHECKS: tuple[Check, ...] = (
    *(bicep, azure_yaml, manifests),
    *(dockerfile, shell, yaml_style, schemas, checkov),
)


def main() -> int:
    """Run all checks, or those that are named. Print each result; return 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CHECK")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[3])
    options = parser.parse_args()
    failed = False
    for check in CHECKS:
        if options.names and check.__name__ not in options.names:
            continue
        try:
            check(options.root.resolve())
            sys.stdout.write(f"{check.__name__}: passed\n")
        except Exception as error:  # noqa: BLE001  a template that cannot be parsed is an error too
            sys.stdout.write(f"{check.__name__}: failed\n{error}\n")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
