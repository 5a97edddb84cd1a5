"""App settings: local.settings.json overlaid by the environment, as Core Tools does; %NAME%."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.program import SettingError

_REFERENCE = re.compile(r"%([^%\s]+)%")


def read_app_settings(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the app's settings: the file's values, and over them the host's environment.

    Raises SettingError for a file that is not what Core Tools writes.
    """
    return {**_file_values(folder / "local.settings.json"), **environment}


def _file_values(path: Path) -> dict[str, str]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise SettingError(f"{path}: a JSON object is expected")
    if document.get("IsEncrypted"):
        raise SettingError(f"{path}: encrypted settings cannot be read; decrypt the file first")
    values = document.get("Values", {})
    if not isinstance(values, dict):
        raise SettingError(f"{path}: 'Values' must be an object")
    for name, value in values.items():
        if not isinstance(value, str):
            raise SettingError(f"{path}: the value of '{name}' must be a string")
    return values


def resolve(value: Any, settings: Mapping[str, str]) -> Any:
    """Return a binding's value with every %NAME% replaced by the setting of that name.

    Raises SettingError for a name without a setting.
    """
    if isinstance(value, dict):
        return {key: resolve(item, settings) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, settings) for item in value]
    if not isinstance(value, str) or "%" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        try:
            return settings[match[1]]
        except KeyError:
            raise SettingError(f"'%{match[1]}%' does not resolve to a value") from None

    return _REFERENCE.sub(replace, value)
