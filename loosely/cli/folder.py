"""The commands of a model folder: ``loosely new``, ``test``, ``package`` and ``deploy``."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from loosely.cli.processes import exit_on_up_error, run_module
from loosely.local.environment import (
    check_requirements,
    find_root,
    read_environment,
    shared_environment,
)
from loosely.local.errors import USAGE_EXIT_CODE, ExtraMissing
from loosely.local.model_folder import (
    Example,
    ModelFolder,
    current_model_folder,
    make_model_folder,
)
from loosely.local.package import write_azd_project, write_package

INSTALL_COMMANDS: Final = (
    "pip install -r requirements.txt",
    "pip install --no-deps -r requirements-no-deps.txt",
)
"""What installs the packages of a model folder."""


def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make. It may exist if empty.")],
    example: Annotated[
        Example, typer.Option(help="chat: a language model and embeddings, with transformers.")
    ] = Example.BRIGHTNESS,
) -> None:
    """Make a model folder: a catalogue, a model with its test, and an example input."""
    with exit_on_up_error():
        make_model_folder(folder, find_root(), example)
    models, commands = "the model `brightness`; serve it", ["loosely up --watch"]
    if example is Example.CHAT:
        models = (
            "the models `chat` and `embeddings`; install what they need (190 MB), and serve them"
        )
        commands = [*INSTALL_COMMANDS, *commands]
    typer.echo(f"made {folder} with {models}:\n")
    typer.echo("\n".join(f"  {each}" for each in (f"cd {shlex.quote(str(folder))}", *commands)))


def test(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of pytest.")
    ] = None,
) -> None:
    """Run the tests of the model folder with pytest.

    The first test that uses the fixture `loosely_client` starts a local system on free ports. The
    system serves the models of this folder, and the fixture is a client of the system.
    """
    with exit_on_up_error():
        check_requirements()
        if find_spec("pytest") is None:
            raise ExtraMissing("pytest is not installed: install it with `pip install pytest`")
    folder = current_model_folder()
    done = subprocess.run(  # noqa: S603  pytest, without a shell
        [sys.executable, "-m", "pytest", "-p", "loosely.testing", *(arguments or [])],
        cwd=folder.path,
        env=shared_environment(find_root(), read_environment(), folder.path),
        check=False,
    )
    raise typer.Exit(done.returncode)


def package(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Where to write both folders. Default: build in the model folder.",
        ),
    ] = None,
) -> None:
    """Write the folders to deploy: the Function App, and the build context of the worker image."""
    root = find_root()
    folder = current_model_folder()
    hub_files = _check_catalogue(folder)
    target = target or folder.path / "build"
    with exit_on_up_error():
        paths = write_package(target, root, folder)
        (target / "weights.txt").write_text(hub_files, encoding="utf-8")
        for path in paths:
            files = [file for file in path.rglob("*") if file.is_file()]
            size_bytes = sum(file.stat().st_size for file in files)
            typer.echo(f"{path}: {len(files)} files, {size_bytes / 1024:.0f} KiB")


def deploy(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of azd up.")
    ] = None,
    *,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only write the project; do not run azd.")
    ] = False,
) -> None:
    """Deploy the models of this folder to Azure with the Azure Developer CLI.

    Write a project for azd into the directory `azure` of the model folder, and run `azd up` there.
    Do not delete the directory `azure/.azure`, in which azd records what is deployed.
    """
    root = find_root()
    folder = current_model_folder()
    _check_catalogue(folder)
    project = root if folder.path == root else folder.path / "azure"
    if project != root:
        with exit_on_up_error():
            write_azd_project(project, root, folder)
        paths = [str(project / "functions"), str(project)]
        environment = shared_environment(root, read_environment())
        run_module(
            "infra.generate",
            cwd=project,
            env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
        )
    command = ["azd", "up", "--cwd", str(project), *(arguments or [])]
    if prepare:
        typer.echo(f"deploy the project with\n\n  {shlex.join(command)}")
        return
    if shutil.which("azd") is None:
        typer.echo(
            "azd is not installed: install the Azure Developer CLI "
            f"(https://aka.ms/azd-install), or run on a machine that has it: {shlex.join(command)}",
            err=True,
        )
        raise typer.Exit(USAGE_EXIT_CODE)
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603  without a shell


def _check_catalogue(folder: ModelFolder) -> str:
    """Check the folder's catalogue, and return its weights on the Hub for `fetch-weights.sh`."""
    return run_module("contract", "hub-files", str(folder.catalogue), stdout=subprocess.PIPE)
