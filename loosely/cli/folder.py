"""The commands of a model folder: ``loosely new``, ``test``, ``package`` and ``deploy``."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from loosely.local.environment import (
    check_requirements,
    find_root,
    read_environment,
    shared_environment,
)
from loosely.local.errors import USAGE_EXIT_CODE, ExtraMissing, UpError
from loosely.local.model_folder import ModelFolder, current_model_folder, make_model_folder
from loosely.local.package import write_azd_project, write_package
from loosely.local.parts import python_command


def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make. It may exist if empty.")],
) -> None:
    """Make a model folder: a catalogue, a model with its test, and an example input."""
    with _exit_on_error():
        make_model_folder(folder, find_root())
    typer.echo(f"made {folder} with the model `brightness`; serve it:\n")
    typer.echo(f"  cd {shlex.quote(str(folder))}\n  loosely up --watch")


def test(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of pytest.")
    ] = None,
) -> None:
    """Run the tests of the model folder with pytest.

    The first test that uses the fixture `loosely_client` starts a local system on free ports. The
    system serves the models of this folder, and the fixture is a client of the system.
    """
    with _exit_on_error():
        check_requirements()
        if find_spec("pytest") is None:
            raise ExtraMissing("pytest is not installed: install it with `pip install pytest`")
    user, root = read_environment(), find_root()
    folder = current_model_folder()
    done = subprocess.run(  # noqa: S603  pytest, without a shell
        [sys.executable, "-m", "pytest", "-p", "loosely.testing", *(arguments or [])],
        cwd=folder.path,
        env=shared_environment(root, user, folder.path),
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
    hub_files = _check_catalogue(root, folder)
    target = target or folder.path / "build"
    with _exit_on_error():
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
    _check_catalogue(root, folder)
    project = root if folder.path == root else folder.path / "azure"
    if project != root:
        with _exit_on_error():
            write_azd_project(project, root, folder)
        paths = [str(project / "functions"), str(project)]
        made = subprocess.run(  # noqa: S603  our own module, without a shell
            python_command("infra.generate"),
            cwd=project,
            env=shared_environment(root, read_environment())
            | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if made.returncode:
            raise typer.Exit(made.returncode)
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


def _check_catalogue(root: Path, folder: ModelFolder) -> str:
    """Check the folder's catalogue in another process, which prints the reason if it is invalid.

    Returns the list of the weights that it takes from the Hugging Face Hub, as `fetch-weights.sh`
    reads it.
    """
    checked = subprocess.run(  # noqa: S603  our own module, without a shell
        python_command("contract", "hub-files", str(folder.catalogue)),
        env=shared_environment(root, read_environment()),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if checked.returncode:
        raise typer.Exit(checked.returncode)
    return checked.stdout


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """If the ``with`` block raises UpError, print the message and exit with the error's code."""
    try:
        yield
    except UpError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
