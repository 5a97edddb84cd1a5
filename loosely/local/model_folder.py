"""Find the model folder in which a command is run, or make a new model folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from loosely.local.environment import find_root, read_environment
from loosely.local.errors import FolderUnusable

_CATALOGUE = "models.toml"


class Example(StrEnum):
    """What a new model folder contains."""

    BRIGHTNESS = "brightness"
    CHAT = "chat"


_CONTENTS = {
    Example.BRIGHTNESS: ("model-folder", ("chelsea.jpg",)),
    Example.CHAT: ("chat-folder", ("question.txt", "sentences.json")),
}
"""The folder in `examples` that is copied, and the example inputs."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A directory with the models to serve, from which the modules in ``code`` are imported."""

    path: Path
    catalogue: Path
    code: Path

    @property
    def data(self) -> Path:
        """The default data directory of the local system."""
        return self.path / ".loosely"


def current_model_folder() -> ModelFolder:
    """Return the model folder that contains the working directory, or the shipped models."""
    return find_model_folder(Path.cwd(), find_root(), read_environment())


def find_model_folder(current: Path, root: Path, user: Mapping[str, str]) -> ModelFolder:
    """Return the model folder that contains ``current``, or a folder with the shipped models.

    The data of the latter is in the repository or, for a wheel, in ``current``. ``MODEL_CATALOGUE``
    in the user's environment replaces the catalogue.
    """
    current = current.resolve()
    shipped = root / "functions" / "contract" / _CATALOGUE
    is_repository = (root / "loosely").is_dir()
    found = ModelFolder(root if is_repository else current, shipped, root / "worker" / "models")
    for path in (current, *current.parents):
        if path == root:
            break
        if (path / _CATALOGUE).is_file() and path != shipped.parent:
            found = ModelFolder(path, path / _CATALOGUE, path / "models")
            break
    chosen = user.get("MODEL_CATALOGUE")
    return replace(found, catalogue=Path(chosen).resolve()) if chosen else found


def make_model_folder(path: Path, root: Path, example: Example = Example.BRIGHTNESS) -> None:
    """Write a new model folder with the models of an example, their tests and inputs.

    Raises FolderUnusable if ``path`` is not empty or cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FolderUnusable(f"{path} exists and is not an empty folder: choose another name")
    examples = root / "examples"
    source, inputs = _CONTENTS[example]
    try:
        shutil.copytree(
            examples / source,
            path,
            ignore=shutil.ignore_patterns("__pycache__", ".*_cache", ".loosely"),
            copy_function=shutil.copyfile,
            dirs_exist_ok=True,
        )
        (path / "examples").mkdir()
        for name in inputs:
            shutil.copyfile(examples / name, path / "examples" / name)
    except OSError as error:
        raise FolderUnusable(f"{path} cannot be written: {error.strerror or error}") from error
