"""Write the folders to deploy, or a project for the Azure Developer CLI (`azd`) that deploys them.

`functions/` contains the files that Core Tools and azd publish, and `worker/` is the build context
of the worker's image. The project for azd has the layout of the repository.
"""

import hashlib
import shutil
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from loosely.local.errors import FolderUnusable
from loosely.local.model_folder import ModelFolder

_CATALOGUE = Path("contract", "models.toml")
# Core Tools never publish these files.
_ALWAYS_EXCLUDED = (".funcignore", ".gitignore", "local.settings.json")
_UNUSED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "Dockerfile")
_BUILT = shutil.ignore_patterns("__pycache__", "*.pyc", "build")
_PROJECT_PARTS = ("functions", "infra", "models", "weights", "worker")
# The line of azure.yaml that marks a project of ours.
_PROJECT_MARK = "template: loosely"
_COPIED_TO_IMAGE = """\
# Only what worker/Dockerfile copies goes to the builder.
*
!functions/contract
!models
!requirements-no-deps.txt
!requirements.txt
!weights
!worker
**/__pycache__
**/*.pyc
"""
_COPY_MODELS = """
# The models of the folder that `loosely package` has packaged.
COPY models /app/models
"""
_COPY_WEIGHTS = """
# The weights of these models, which are files of the folder.
COPY weights /app
"""
_INSTALL_REQUIREMENTS = """
USER root
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --no-compile -r /tmp/requirements.txt && pip check
USER 10001:10001
"""
# After `pip check`, which would miss what these packages require.
_INSTALL_WITHOUT_DEPENDENCIES = """
USER root
COPY requirements-no-deps.txt /tmp/requirements-no-deps.txt
RUN pip install --no-cache-dir --no-compile --no-deps -r /tmp/requirements-no-deps.txt
USER 10001:10001
"""
_REQUIREMENTS = {
    "requirements.txt": _INSTALL_REQUIREMENTS,
    "requirements-no-deps.txt": _INSTALL_WITHOUT_DEPENDENCIES,
}
"""The lines of the Dockerfile for each list of packages that a model folder may have."""


def write_package(target: Path, root: Path, folder: ModelFolder) -> tuple[Path, Path]:
    """Write the folders `functions` and `worker` into ``target``, and return their paths.

    The catalogue must be valid. Raises FolderUnusable if another has written one of the folders, or
    the model folder cannot be packaged.
    """
    app, worker = target.resolve() / "functions", target.resolve() / "worker"
    for path, recognized in ((app, Path()), (worker, Path("functions"))):
        is_ours = path != root / path.name and (path / recognized / _CATALOGUE).is_file()
        if path.exists() and not is_ours:
            raise FolderUnusable(
                f"{path} contains files that Loosely has not written: choose an empty folder"
            )
    _check_places(folder)
    weights = _find_weights(folder)
    copy_function_app(app, root / "functions")
    shutil.copyfile(folder.catalogue, app / _CATALOGUE)
    shutil.rmtree(worker, ignore_errors=True)
    contract = worker / "functions" / "contract"
    shutil.copytree(root / "functions" / "contract", contract, ignore=_UNUSED)
    shutil.copyfile(folder.catalogue, contract / _CATALOGUE.name)
    shutil.copytree(root / "worker", worker / "worker", ignore=_UNUSED)
    dockerfile = _copy_models(worker, root, folder, weights)
    (worker / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    return app, worker


def write_azd_project(target: Path, root: Path, folder: ModelFolder) -> None:
    """Write a project for `azd` that deploys the models of a folder with a valid catalogue.

    Other files stay, such as `.azure`, in which azd keeps the names of the deployed resources. The
    caller must then run `infra.generate` in the project. Raises FolderUnusable as `write_package`.
    """
    description = target / "azure.yaml"
    is_ours = description.is_file() and _PROJECT_MARK in description.read_text("utf-8", "replace")
    names = ("azure.yaml", ".dockerignore", *_REQUIREMENTS, *_PROJECT_PARTS)
    if not is_ours and any((target / name).exists() for name in names):
        raise FolderUnusable(
            f"{target} contains files that `loosely deploy` has not written: move them elsewhere"
        )
    _check_places(folder)
    weights = _find_weights(folder)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / "azure.yaml", description)
    for name in _PROJECT_PARTS:
        shutil.rmtree(target / name, ignore_errors=True)
    for name in _REQUIREMENTS:
        (target / name).unlink(missing_ok=True)
    copy_function_app(target / "functions", root / "functions")
    shutil.copyfile(folder.catalogue, target / "functions" / _CATALOGUE)
    shutil.copytree(root / "infra", target / "infra", ignore=_BUILT)
    # An installer may drop the permission to execute.
    for script in (target / "infra" / "scripts").glob("*.sh"):
        script.chmod(0o755)
    shutil.copytree(root / "worker", target / "worker", ignore=_UNUSED)
    dockerfile = _copy_models(target, root, folder, weights)
    (target / "worker" / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    (target / ".dockerignore").write_text(_COPIED_TO_IMAGE, encoding="utf-8")


def copy_function_app(target: Path, app: Path) -> list[Path]:
    """Copy the published files into a new folder `target`, and return their relative paths."""
    shutil.rmtree(target, ignore_errors=True)
    files = list_published(app)
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(app / file, target / file)
    return files


def list_published(app: Path) -> list[Path]:
    """Return the files of the Function App that are published, as paths relative to ``app``."""
    patterns = read_exclusions(app)
    files = (path.relative_to(app) for path in sorted(app.rglob("*")) if path.is_file())
    return [
        file
        for file in files
        if not any(fnmatch(part, pattern) for part in file.parts for pattern in patterns)
    ]


def read_exclusions(app: Path) -> tuple[str, ...]:
    """Return the name patterns of the files and folders that are not published.

    Raises ValueError for patterns of .funcignore that are not supported: with `/` or a leading `!`.
    """
    lines = (app / ".funcignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if unclear := [pattern for pattern in patterns if "/" in pattern or pattern[0] == "!"]:
        raise ValueError(
            ".funcignore: expected a pattern that contains no / and does not begin with !, "
            f"found {unclear[0]}"
        )
    return (*patterns, *_ALWAYS_EXCLUDED)


def _check_places(folder: ModelFolder) -> None:
    """Raise FolderUnusable if a model's module is in the folder but outside ``folder.code``."""
    for name, entry in tomllib.loads(folder.catalogue.read_text("utf-8")).items():
        versions = [each for key, each in entry.items() if key.isdecimal()]
        for module in [
            each["implementation"] for each in (entry, *versions) if "implementation" in each
        ]:
            top = module.partition(".")[0]
            is_here = (folder.path / top).is_dir() or (folder.path / f"{top}.py").is_file()
            if is_here and top not in {folder.code.name, "worker"}:
                raise FolderUnusable(
                    f"{name}: the module {module} is not in {folder.code}, the only code that is "
                    "packaged: move the module there"
                )


def _find_weights(folder: ModelFolder) -> list[Path]:
    """Check the weights in the model folder, and return their paths relative to the folder."""
    tables = tomllib.loads(folder.catalogue.read_text("utf-8")).items()
    below = [
        (name, table)
        for name, entry in tables
        for table in entry.values()
        if isinstance(table, dict)
    ]
    paths = []
    for name, entry in [*tables, *below]:
        scheme, _, path = str(entry.get("weights", "")).partition(":")
        if scheme != "file":
            continue
        file, expected = folder.path / path, entry.get("weights_sha256")
        if not file.is_file():
            raise FolderUnusable(
                f"{name}.weights: there is no file {file}: add the file, or correct the path"
            )
        if expected is None:
            raise FolderUnusable(
                f"{name}.weights_sha256: the key is missing, but packaged weights need it: run "
                f"`loosely models lock {name}`"
            )
        with file.open("rb") as reader:
            found = hashlib.file_digest(reader, "sha256").hexdigest()
        if found != expected:
            raise FolderUnusable(
                f"{name}.weights_sha256: {file} has the digest {found}, not {expected}: run "
                f"`loosely models lock {name}` if you have changed the file"
            )
        paths.append(Path(path))
    return paths


def _copy_models(target: Path, root: Path, folder: ModelFolder, weights: Sequence[Path]) -> str:
    """Copy the model folder's code, requirements and weights to the image's build context.

    Returns the text of the Dockerfile: the worker's, followed by lines that add these files.
    """
    dockerfile = (root / "worker" / "Dockerfile").read_text(encoding="utf-8")
    if folder.code != root / "worker" / "models" and folder.code.is_dir():
        shutil.copytree(folder.code, target / "models", ignore=_UNUSED)
        dockerfile += _COPY_MODELS
    # Weights among the models were copied with them.
    others = [path for path in weights if not (target / path).is_file()]
    for path in others:
        (target / "weights" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.path / path, target / "weights" / path)
    if others:
        dockerfile += _COPY_WEIGHTS
    for name, lines in _REQUIREMENTS.items():
        if (folder.path / name).is_file():
            shutil.copyfile(folder.path / name, target / name)
            dockerfile += lines
    return dockerfile
