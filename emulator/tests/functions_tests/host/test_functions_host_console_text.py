"""Tests of the host's coloured output, list of functions, and options in local.settings.json."""

import io
import logging
import os
import pty
from pathlib import Path

import pytest

from emulator.functions.catalogue import build_catalogue
from emulator.functions.console import ColourFormatter, list_functions, wants_colour
from emulator.functions.settings import HostFile, LocalHostOptions, read_local_host_options
from emulator.program import SettingError

HTTP = {"type": "httpTrigger", "direction": "IN", "name": "req"}


def test_list_shows_disabled_functions() -> None:
    functions = [
        {"name": "web", "bindings": [{**HTTP, "methods": ["GET"], "route": "x"}]},
        {"name": "off", "bindings": [HTTP]},
    ]
    settings = {"AzureWebJobs.off.Disabled": "true"}
    catalogue = build_catalogue(functions, HostFile(), settings)
    url = "http://localhost:7071"
    assert list_functions(catalogue, url, has_colour=False) == (
        "\nFunctions:\n\n\tweb: [GET] http://localhost:7071/api/x\n\nFunction off is disabled.\n"
    )
    assert list_functions(catalogue, url, has_colour=True) == (
        "\n\x1b[33mFunctions:\x1b[0m\n\n"
        "\t\x1b[33mweb:\x1b[0m \x1b[32m[GET] http://localhost:7071/api/x\x1b[0m\n\n"
        "\x1b[33mFunction off is disabled.\x1b[0m\n"
    )


def test_terminal_has_colours_unless_no_color_is_set() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
        assert wants_colour(terminal, {})
        assert wants_colour(terminal, {"NO_COLOR": ""})
        assert not wants_colour(terminal, {"NO_COLOR": "1"})
        assert not wants_colour(terminal, {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {})


def test_log_line_has_the_colour_of_its_level() -> None:
    record = logging.LogRecord("host", logging.ERROR, "", 1, "it %s", ("failed",), None)
    time, line = ColourFormatter().format(record).split("\x1b[0m", 1)
    assert time == f"\x1b[2m{record.asctime}"
    assert line == "\x1b[31m ERROR host it failed\x1b[0m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, LocalHostOptions()),
        ('{"Values": {}}', LocalHostOptions()),
        ('{"Host": {"LocalHttpPort": 7072}}', LocalHostOptions(7072)),
        (
            '{"Host": {"CORS": "http://a, http://b"}}',
            LocalHostOptions(None, ("http://a", "http://b")),
        ),
    ],
)
def test_port_and_cors_come_from_local_settings(
    text: str | None, expected: LocalHostOptions, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "local.settings.json").write_text(text)
    assert read_local_host_options(tmp_path) == expected


@pytest.mark.parametrize("host", ['"x"', '{"LocalHttpPort": 70000}', '{"CORS": 1}'])
def test_invalid_local_settings_are_refused(host: str, tmp_path: Path) -> None:
    (tmp_path / "local.settings.json").write_text(f'{{"Host": {host}}}')
    with pytest.raises(SettingError, match=r"local\.settings\.json: "):
        read_local_host_options(tmp_path)
