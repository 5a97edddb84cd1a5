"""Choose a model of the catalogue and an input for the example that `loosely up` prints."""

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_FILES: Final = {"image/jpeg": "chelsea.jpg", "audio/wav": "speech.wav"}
"""The example inputs in the repository, by media type."""

_BODIES: Final = {
    "application/json": """'{"input": {"json": [1, 2, 3]}}'""",
    "text/plain": "'a text'",
}
"""The arguments of curl's option --data, by media type."""


@dataclass(frozen=True, slots=True)
class ExampleRequest:
    """A job to submit: the model, and the arguments of curl that contain the input."""

    model: str
    arguments: str
    needs_key: bool = False

    def curl_command(self, url: str) -> str:
        """Return a shell command that submits the job to the gateway at ``url``."""
        key = '-H "x-api-key: $LOOSELY_API_KEY" ' if self.needs_key else ""
        return f"curl {self.arguments} {key}{url}/v1/models/{self.model}/jobs"


def choose_example(catalogue: Path, folder: Path, *, needs_key: bool) -> ExampleRequest | None:
    """Return an example request for the first model of a catalogue, with a file of ``folder``.

    The result is ``None`` if the catalogue cannot be read. The components report that error.
    """
    try:
        tables = tomllib.loads(catalogue.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    for name, table in tables.items():
        accepted = _media_types(table)
        if accepted:
            return ExampleRequest(name, _arguments(accepted, folder), needs_key)
    return None


def _media_types(table: Any) -> list[str]:
    given = table.get("media_types") if isinstance(table, Mapping) else None
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []


def _arguments(accepted: list[str], folder: Path) -> str:
    for media_type in accepted:
        if media_type in _FILES:
            file = shlex.quote(str(folder / _FILES[media_type]))
            return f"--data-binary @{file} -H 'content-type: {media_type}'"
        if media_type in _BODIES:
            return f"--data {_BODIES[media_type]} -H 'content-type: {media_type}'"
    return f"--data-binary @FILE -H {shlex.quote(f'content-type: {accepted[0]}')}"
