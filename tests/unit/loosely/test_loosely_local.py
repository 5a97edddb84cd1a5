import ast
import asyncio
import base64
import io
import json
import os
import socket
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from loosely.cli.up import choose_parts
from loosely.local import events
from loosely.local.console import StatusDisplay
from loosely.local.data_directory import (
    RunningPart,
    RunningSystem,
    StateWriter,
    find_disk_problem,
    lock_directory,
    note_data_directory,
    reply_token_key,
    service_bus_keys,
)
from loosely.local.environment import read_cors_origins, shared_environment
from loosely.local.errors import DataDirectoryInUse, DataDirectoryUnusable, PortBusy, UnknownPart
from loosely.local.example import choose_example
from loosely.local.launcher import Launcher
from loosely.local.logs import PartLog
from loosely.local.pages import PAGES
from loosely.local.parts import PART_NAMES, Part, Preparation, SystemSettings, loosely_parts
from loosely.local.ports import Ports, check_ports, free_base
from loosely.local.probe import Probe, is_ready
from loosely.local.process_manager import RestartBackoff
from loosely.local.reaper import Reaper
from tests.small_disk import no_space

WORKER = Part("worker", "PyTorch worker", "http://127.0.0.1:8081/ready", (), Probe(8081), {})


def settings(root: Path = Path("/repository"), catalogue: Path | None = None) -> SystemSettings:
    return SystemSettings(
        root, root / ".loosely", Ports.from_base(9000), "c2VjcmV0", "info", catalogue
    )


class TestBackoff:
    def test_delay_doubles_up_to_limit(self) -> None:
        backoff = RestartBackoff()
        delays = [backoff.next_delay(1.0) for _ in range(8)]
        assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]

    def test_failing_component_has_higher_limit(self) -> None:
        backoff = RestartBackoff()
        delays = [backoff.next_delay(1.0, is_failing=True) for _ in range(9)]
        assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0]
        assert backoff.next_delay(1.0) == 5.0

    def test_delay_is_reset_after_one_minute(self) -> None:
        backoff = RestartBackoff()
        for _ in range(5):
            backoff.next_delay(1.0)
        assert backoff.next_delay(60.0) == 0.1
        assert backoff.next_delay(59.0) == 0.2


class TestPorts:
    def test_defaults_are_those_of_azure_tools(self) -> None:
        assert Ports() == Ports(
            functions=7071, servicebus=5672, servicebus_admin=5300, blobs=10000, worker_health=8081
        )

    def test_busy_port_names_process_and_free_ports(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(PortBusy) as caught:
                check_ports({"functions": port})
        first, second = str(caught.value).splitlines()
        assert first.startswith(f"port {port} (functions) is taken by process {os.getpid()} (")
        assert second.startswith("stop that process, or choose other ports: loosely up --port ")

    def test_port_taken_on_all_addresses_is_busy(self) -> None:
        with socket.create_server(("0.0.0.0", 0)) as server, pytest.raises(PortBusy):
            check_ports({"functions": server.getsockname()[1]})

    def test_port_taken_on_ipv6_is_busy(self) -> None:
        try:
            taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")
        with taken as server, pytest.raises(PortBusy, match=f"process {os.getpid()}"):
            check_ports({"functions": server.getsockname()[1]})

    def test_free_ports_are_accepted(self) -> None:
        base = free_base(20000)
        check_ports({"functions": base, "servicebus": base + 1})


class TestLogs:
    def test_rotation_keeps_previous_log(self, tmp_path: Path) -> None:
        log = PartLog(tmp_path / "logs" / "worker.log")
        log.rotate()
        log.path.write_text("before\n")
        log.rotate()
        assert not log.path.exists()
        assert (tmp_path / "logs" / "worker.log.1").read_text() == "before\n"

    def test_tail_has_only_current_run(self, tmp_path: Path) -> None:
        log = PartLog(tmp_path / "worker.log")
        for text in (b"first run\n", b"one\n\ntwo \x1b[31mred\n"):
            descriptor = log.open()
            os.write(descriptor, text)
            os.close(descriptor)
        assert log.tail(5) == ["one", "two ·[31mred"]
        os.close(log.open())
        assert log.last_line() == ""

    def test_large_open_log_is_copied_and_truncated(self, tmp_path: Path) -> None:
        log = PartLog(tmp_path / "worker.log", limit_bytes=10)
        descriptor = log.open()
        os.write(descriptor, b"0123456789")
        log.limit_size()
        assert log.path.stat().st_size == 10
        os.write(descriptor, b"x")
        log.limit_size()
        os.write(descriptor, b"after\n")
        os.close(descriptor)
        assert log.path.read_bytes() == b"after\n"
        assert (tmp_path / "worker.log.1").read_bytes() == b"0123456789x"
        assert log.last_line() == "after"

    def test_large_log_is_truncated_on_full_disk(self, tmp_path: Path) -> None:
        log = PartLog(tmp_path / "worker.log", limit_bytes=10)
        log.path.write_bytes(b"x" * 200_000)
        with no_space(100_000):
            log.limit_size()
        assert log.path.read_bytes() == b""
        assert not (tmp_path / "worker.log.1").exists()

    def test_unopenable_log_discards_output(self, tmp_path: Path) -> None:
        log = PartLog(tmp_path / "missing" / "worker.log")
        descriptor = log.open()
        os.write(descriptor, b"lost")
        os.close(descriptor)
        assert log.last_line() == ""


class TestData:
    def test_failed_write_of_state_is_repeated(self, tmp_path: Path) -> None:
        state = StateWriter(tmp_path, tmp_path / "logs", "http://here", [WORKER])
        state.apply(events.PartStarted(WORKER, 7))
        with no_space(0):
            state.apply(events.PartReady(WORKER, 1.0, is_restart=False))
        assert "up.json cannot be written: File too large" in state.problem
        before = RunningSystem.read(tmp_path)
        assert before is not None
        assert not before.parts["worker"].ready

        state.write()

        assert state.problem == ""
        after = RunningSystem.read(tmp_path)
        assert after is not None
        assert after.parts["worker"].ready
        assert [path.name for path in tmp_path.iterdir()] == ["up.json"]

    def test_unwritable_directory_is_refused(self, tmp_path: Path) -> None:
        with no_space(0), pytest.raises(DataDirectoryUnusable, match="loosely up --data"):
            reply_token_key(tmp_path)
        too_large = pytest.raises(DataDirectoryUnusable, match="File too large")
        with no_space(0), too_large, lock_directory(tmp_path):
            pass
        assert find_disk_problem(tmp_path) == ""
        assert "cannot be read" in find_disk_problem(tmp_path / "missing")

    def test_locked_directory_is_refused(self, tmp_path: Path) -> None:
        with (
            lock_directory(tmp_path),
            pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"),
            lock_directory(tmp_path),
        ):
            pass
        with lock_directory(tmp_path):
            pass

    def test_other_users_cannot_enter(self, tmp_path: Path) -> None:
        older = tmp_path / "older"
        older.mkdir()
        older.chmod(0o755)
        for directory in (older, tmp_path / "new"):
            with lock_directory(directory):
                assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_sticky_directory_keeps_its_mode(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        with lock_directory(tmp_path):
            assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777

    def test_reply_token_key_is_created_once(self, tmp_path: Path) -> None:
        key = reply_token_key(tmp_path)
        assert reply_token_key(tmp_path) == key
        assert len(key) == 44
        assert (tmp_path / "reply-token.key").stat().st_mode & 0o777 == 0o600

    def test_service_bus_keys_are_created_once(self, tmp_path: Path) -> None:
        keys = service_bus_keys(tmp_path)
        assert service_bus_keys(tmp_path) == keys
        assert {len(base64.b64decode(key)) for key in keys.values()} == {32}
        assert len(set(keys.values())) == 2
        path = tmp_path / "servicebus-policies.json"
        assert path.stat().st_mode & 0o777 == 0o600
        rights = {"gateway": ["Listen", "Send", "Manage"], "worker": ["Listen", "Send"]}
        rules = [
            {"Name": name, "Rights": each, "PrimaryKey": keys[name]}
            for name, each in rights.items()
        ]
        assert json.loads(path.read_text()) == {"AuthorizationRules": rules}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "\xff",
            '{"AuthorizationRules": 5}',
            '{"AuthorizationRules": [{"Name": "worker", "PrimaryKey": 5}]}',
        ],
    )
    def test_missing_keys_are_created_again(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "servicebus-policies.json"
        path.write_text(text, "latin-1")
        keys = service_bus_keys(tmp_path)
        assert set(keys) == {"gateway", "worker"}
        assert path.stat().st_mode & 0o777 == 0o600
        # A file with wrong rights is repaired, and its keys are kept.
        path.write_text(path.read_text().replace('"Manage"', '"Send"'))
        assert service_bus_keys(tmp_path) == keys
        assert '"Manage"' in path.read_text()

    def test_written_state_is_read(self, tmp_path: Path) -> None:
        part = RunningPart(7, {"worker health": 8081}, "worker.log", ready=True)
        system = RunningSystem(os.getpid(), "http://127.0.0.1:7071", {"worker": part})
        system.write(tmp_path)
        assert RunningSystem.read(tmp_path) == system
        RunningSystem.remove(tmp_path)
        assert RunningSystem.read(tmp_path) is None
        assert list(tmp_path.iterdir()) == []

    def test_system_in_other_directory_is_found(self, tmp_path: Path) -> None:
        own, other = tmp_path / "folder" / ".loosely", tmp_path / "other"
        other.mkdir()
        elsewhere = RunningSystem(os.getpid(), "http://127.0.0.1:2", {})
        elsewhere.write(other)
        assert RunningSystem.find(own) is None
        note_data_directory(own, other)
        assert RunningSystem.find(own) == elsewhere
        here = RunningSystem(os.getpid(), "http://127.0.0.1:1", {})
        here.write(own)
        assert RunningSystem.find(own) == here
        RunningSystem.remove(own)
        RunningSystem.remove(other)
        assert RunningSystem.find(own) is None

    def test_default_directory_is_not_noted(self, tmp_path: Path) -> None:
        note_data_directory(tmp_path, tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["", "\0", "\xff", "/nowhere"])
    def test_invalid_note_is_ignored(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "data-directory").write_text(text, "latin-1")
        assert RunningSystem.find(tmp_path) is None

    @pytest.mark.parametrize(
        "text", ["", "[]", "null", "{}", '{"pid": "x", "url": "", "parts": {}}', "\xff"]
    )
    def test_invalid_state_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "up.json").write_text(text, "latin-1")
        assert RunningSystem.read(tmp_path) is None

    def test_state_of_dead_process_is_none(self, tmp_path: Path) -> None:
        document = {"pid": 2**22 + 1, "url": "http://127.0.0.1:1", "parts": {}}
        (tmp_path / "up.json").write_text(json.dumps(document))
        assert RunningSystem.read(tmp_path) is None


class TestSystem:
    def test_components_are_in_order(self) -> None:
        assert tuple(part.name for part in loosely_parts(settings())) == PART_NAMES

    def test_components_use_exactly_five_ports(self) -> None:
        ports = [port for part in loosely_parts(settings()) for port in part.ports.values()]
        assert sorted(ports) == [9000, 9001, 9002, 9003, 9004]

    def test_commands_and_repr_contain_no_keys(self) -> None:
        for part in loosely_parts(settings()):
            for secret in ("c2VjcmV0", "SAS_KEY_VALUE", "AccountKey"):
                assert secret not in " ".join(part.command)
                assert secret not in repr(part)
        assert "c2VjcmV0" not in repr(settings())

    def test_environments_have_required_settings(self) -> None:
        _, _, functions, worker = loosely_parts(settings())
        assert functions.environment["GATEWAY_BASE_URL"] == "http://127.0.0.1:9000"
        assert functions.environment["REPLY_TOKEN_KEYS"] == "c2VjcmV0"
        assert functions.environment["FUNCTIONS_WORKER_RUNTIME"] == "python"
        assert functions.environment["PYTHON_ENABLE_INIT_INDEXING"] == "1"
        assert worker.environment["REPLY_HOSTS"] == "127.0.0.1:9000"
        assert worker.environment["HEALTH_PORT"] == "9004"
        for part in (functions, worker):
            assert "sb://localhost:9001;" in part.environment["SERVICE_BUS"]
            assert "SharedAccessKeyName=Root" in part.environment["SERVICE_BUS"]
            assert "127.0.0.1:9003/devstoreaccount1;" in part.environment["PAYLOAD_STORAGE"]

    def test_each_component_gets_its_own_key(self) -> None:
        keys = {"gateway": "one", "worker": "two"}
        _, servicebus, functions, worker = loosely_parts(replace(settings(), service_bus_keys=keys))
        for part, policy in ((functions, "gateway"), (worker, "worker")):
            expected = f"SharedAccessKeyName={policy};SharedAccessKey={keys[policy]};"
            assert expected in part.environment["SERVICE_BUS"]
        at = servicebus.command.index("--policies")
        assert servicebus.command[at + 1] == "/repository/.loosely/servicebus-policies.json"
        assert not {"one", "two"} & set(servicebus.command)
        assert "two" not in repr(replace(settings(), service_bus_keys=keys))

    def test_services_get_allowed_hosts(self) -> None:
        allowing = replace(settings(), allowed_hosts=("dev.example",))
        commands = {part.name: " ".join(part.command) for part in loosely_parts(allowing)}
        for name in ("blobs", "servicebus", "functions"):
            assert "--allow-host dev.example" in commands[name]
        assert "--allow-host" not in commands["worker"]

    def test_blob_storage_gets_allowed_origins(self) -> None:
        allowing = replace(settings(), cors_origins=("http://localhost:3000", "https://a.example"))
        blobs, *others = loosely_parts(allowing)
        words = [word for word in blobs.command if word.startswith("http")]
        assert words == [
            "http://127.0.0.1:9000",
            "http://localhost:9000",
            "http://localhost:3000",
            "https://a.example",
        ]
        assert blobs.command.count("--cors-origin") == 4
        assert not any("--cors-origin" in part.command for part in others)

    def test_components_get_checked_catalogue(self) -> None:
        _, servicebus, functions, worker = loosely_parts(settings(catalogue=Path("/m.toml")))
        assert servicebus.preparation is not None
        preparation = servicebus.preparation
        assert preparation.catalogue == Path("/m.toml")
        assert preparation.command[-1] == str(preparation.temporary)
        # They read a copy, which is replaced only after the check of the draft.
        assert functions.environment["MODEL_CATALOGUE"] == str(preparation.checked)
        assert worker.environment["MODEL_CATALOGUE"] == str(preparation.checked)

    def test_queues_get_served_models(self) -> None:
        given = replace(settings(catalogue=Path("/m.toml")), served_models="small,small:2")
        _, servicebus, *_ = loosely_parts(given)
        assert servicebus.preparation is not None
        assert servicebus.preparation.command[-3:-1] == ("--served", "small,small:2")
        _, _, functions, _ = loosely_parts(replace(given, broker="redis"))
        assert functions.preparation is not None
        assert "--served" not in functions.preparation.command

    def test_service_bus_and_gateway_share_one_preparation(self, tmp_path: Path) -> None:
        text = json.dumps({"queues": "q", "host-settings": "s"})
        script = f"open('runs', 'a').write('x'); print({text!r})"
        preparation = Preparation(
            (sys.executable, "-c", script),
            (("queues", tmp_path / "q.json"), ("host-settings", tmp_path / "s.json")),
        )
        _, servicebus, functions, _ = loosely_parts(settings())
        assert servicebus.preparation == functions.preparation

        async def prepare() -> None:
            reaper = Reaper()
            try:
                launcher = Launcher(tmp_path, os.environ, reaper)
                parts = (servicebus, functions)
                await asyncio.gather(*(launcher.prepare(part, preparation) for part in parts))
            finally:
                reaper.close()

        asyncio.run(prepare())
        assert [(tmp_path / f"{name}.json").read_text("utf-8") for name in "qs"] == ["q", "s"]
        assert (tmp_path / "runs").read_text("utf-8") == "x"

    def test_only_functions_gets_engine_option(self) -> None:
        given = replace(settings(), engine_options=("--engine", "azure-storage"))
        parts = {part.name: part.command for part in loosely_parts(given)}
        assert parts["functions"][-2:] == given.engine_options
        assert [name for name in parts if "--engine" in parts[name]] == ["functions"]

    def test_user_environment_is_inherited(self) -> None:
        shared = shared_environment(
            Path("/r"), {"WORKER_X": "1", "PYTHONPATH": "/mine", "no_proxy": "intern"}
        )
        assert shared["WORKER_X"] == "1"
        assert shared["PYTHONPATH"] == "/r/functions:/r:/mine"
        assert shared["NO_PROXY"] == "intern,127.0.0.1,localhost"


SETTINGS = '{"Values": {"CORS_ORIGINS": "https://file.example , http://b"}}'


class TestCorsOrigins:
    """Test that `loosely up` and the gateway read the same value of the setting CORS_ORIGINS."""

    @pytest.mark.parametrize(
        ("user", "text", "expected"),
        [
            ({}, None, ()),
            ({}, SETTINGS, ("https://file.example", "http://b")),
            ({"CORS_ORIGINS": " http://a,, http://b "}, None, ("http://a", "http://b")),
            ({"CORS_ORIGINS": "http://a"}, SETTINGS, ("http://a",)),
            ({"CORS_ORIGINS": ""}, SETTINGS, ()),
            ({"CORS_ORIGINS": "*"}, SETTINGS, ("*",)),
            ({}, "\ufeff" + SETTINGS, ("https://file.example", "http://b")),
            ({}, "no JSON", ()),
            ({}, "[]", ()),
            ({}, "{}", ()),
            ({}, '{"Values": []}', ()),
            ({}, '{"Values": {"CORS_ORIGINS": 7}}', ()),
        ],
    )
    def test_environment_precedes_settings_file(
        self, tmp_path: Path, user: dict[str, str], text: str | None, expected: tuple[str, ...]
    ) -> None:
        (tmp_path / "functions").mkdir()
        if text is not None:
            path = tmp_path / "functions" / "local.settings.json"
            path.write_text(text, encoding="utf-8")
        assert read_cors_origins(tmp_path, user) == expected


class TestChoice:
    @pytest.mark.parametrize(
        ("only", "without", "expected"),
        [
            ([], [], set(PART_NAMES)),
            (["blobs, servicebus"], [], {"blobs", "servicebus"}),
            ([], ["worker"], {"blobs", "servicebus", "functions"}),
            ([], ["worker", "functions"], {"blobs", "servicebus"}),
            (["blobs,worker"], ["worker"], {"blobs"}),
        ],
    )
    def test_only_and_without_choose_components(
        self, only: list[str], without: list[str], expected: set[str]
    ) -> None:
        assert choose_parts(only, without) == expected

    @pytest.mark.parametrize(
        ("only", "without"), [(["gateway"], []), ([], ["x"]), (["worker"], ["worker"])]
    )
    def test_invalid_selection_is_refused(self, only: list[str], without: list[str]) -> None:
        with pytest.raises(UnknownPart):
            choose_parts(only, without)


class TestConsole:
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
    def test_full_disk_raises_no_error(self) -> None:
        with (
            Path("/dev/full").open("wb", buffering=0) as full,
            StatusDisplay(Console(file=io.TextIOWrapper(full, "utf-8")), [WORKER]) as display,
        ):
            display.show(events.PartReady(WORKER, 4.24, is_restart=False))
            display.show_disk_problem("the disk is full")
            display.announce_stop()

    def test_failures_have_reasons(self, capsys: pytest.CaptureFixture[str]) -> None:
        with StatusDisplay(Console(), [WORKER]) as display:
            display.show(events.PartReport(WORKER, "could not be started", "red"))
            display.show(events.PartFailing(WORKER, 3, ("one", "two")))
            for problem in ("", "the disk is full", "the disk is full", "", ""):
                display.show_disk_problem(problem)
        assert capsys.readouterr().out.splitlines() == [
            "  worker  could not be started",
            (
                "  worker  died 3 times before it was ready; the other components keep running; "
                "the last lines of its log:"
            ),
            "  worker    one",
            "  worker    two",
            "  the disk is full; all components keep running, but no job is accepted for now",
            "  the data directory can be written again",
        ]

    def test_events_are_lines_in_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        with StatusDisplay(Console(), [WORKER]) as display:
            display.show(events.PartStarted(WORKER, 7))
            display.show(events.PartReady(WORKER, 4.24, is_restart=False))
            display.show(events.PartDied(WORKER, -9, "[INFO] working", 0.1))
            display.show(events.PartReady(WORKER, 2.5, is_restart=True))
            display.show(events.PartStopping(WORKER))
            display.show(events.PartStopped(WORKER, 0.5, is_killed=False))
        assert capsys.readouterr().out.splitlines() == [
            "  worker  ready in 4.2 s  PyTorch worker  http://127.0.0.1:8081/ready",
            "  worker  died (killed by SIGKILL: [INFO] working); restarts in 0.1 s",
            "  worker  ready again in 2.5 s",
            "  worker  is stopping",
            "  worker  stopped after 0.5 s",
        ]

    def test_events_are_a_table_on_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        console = Console(force_terminal=True, width=100, color_system=None)
        with StatusDisplay(console, [WORKER]) as display:
            display.show(events.PartReady(WORKER, 4.24, is_restart=False))
        last = [line for line in capsys.readouterr().out.splitlines() if "worker" in line][-1]
        assert "✓  worker  PyTorch worker  http://127.0.0.1:8081/ready  4.2 s" in last

    def test_curl_command_is_not_wrapped(self, capsys: pytest.CaptureFixture[str]) -> None:
        StatusDisplay(Console(width=40), [WORKER]).show_usage(
            seconds=3.2,
            url="http://127.0.0.1:7071",
            example=choose_example(
                Path(__file__).parents[3] / "functions/contract/models.toml",
                Path("my examples"),
                needs_key=False,
            ),
            files={"Logs": Path("logs")},
        )
        lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
        assert "Ready in 3.2 s." in lines
        assert (
            "curl --data-binary @'my examples/chelsea.jpg' -H 'content-type: image/jpeg' "
            "http://127.0.0.1:7071/v1/models/classifier/jobs"
        ) in lines
        assert "API docs   http://127.0.0.1:7071/docs" in lines

    def test_address_of_each_page_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        display = StatusDisplay(Console(), [WORKER])
        display.show_usage(seconds=1, url="http://g", example=None, files={"Logs": Path("l")})
        printed = capsys.readouterr().out
        assert "Logs       l\n" in printed
        assert [name for name in PAGES if f" http://g/{name}\n" not in printed] == []
        assert "curl" not in printed


@pytest.mark.parametrize(
    ("media_types", "arguments"),
    [
        (["image/png", "image/jpeg"], "--data-binary @e/chelsea.jpg -H 'content-type: image/jpeg'"),
        (["audio/wav"], "--data-binary @e/speech.wav -H 'content-type: audio/wav'"),
        (
            ["application/json"],
            """--data '{"input": {"json": [1, 2, 3]}}' -H 'content-type: application/json'""",
        ),
        (["text/plain"], "--data 'a text' -H 'content-type: text/plain'"),
        (["application/pdf"], "--data-binary @FILE -H 'content-type: application/pdf'"),
    ],
)
def test_example_fits_first_model(media_types: list[str], arguments: str, tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(f"[first]\nmedia_types = {json.dumps(media_types)}\n[second]\n")
    example = choose_example(catalogue, Path("e"), needs_key=True)
    assert example is not None
    assert example.curl_command("http://g") == (
        f'curl {arguments} -H "x-api-key: $LOOSELY_API_KEY" http://g/v1/models/first/jobs'
    )


def test_invalid_catalogue_has_no_example(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    assert choose_example(catalogue, Path("e"), needs_key=False) is None
    for text in ("[", "a = 1", "[a]\nmedia_types = 3", ""):
        catalogue.write_text(text)
        assert choose_example(catalogue, Path("e"), needs_key=False) is None


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")],
)
def test_exit_code_is_described(exit_code: int, text: str) -> None:
    assert events.describe_exit(exit_code) == text


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, True),
        (b"HTTP/1.0 200\r\n\r\n", 200, True),
        (b"HTTP/1.1 503 Busy\r\n\r\n", 200, False),
        (b"HTTP/1.1 400 Bad\r\n\r\n", None, True),
        (b"SSH-2.0-OpenSSH_9.6\r\n", None, False),
        (b"AMQP\x03\x01\x00\x00", None, False),
        (b"x" * 5000, None, False),
        (b"", None, False),
    ],
)
async def test_probe_needs_expected_status(
    answer: bytes, status: int | None, expected: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await is_ready(Probe(port, "/x", status)) is expected


async def test_probe_of_closed_port_fails() -> None:
    assert not await is_ready(Probe(9))


def test_child_and_reaper_import_nothing_of_ours() -> None:
    """Both scripts must run without the package, whose import would be slow or would fail."""
    source = Path(__file__).parents[3] / "loosely" / "local"
    for name in ("child.py", "reaper.py"):
        tree = ast.parse((source / name).read_text())
        imported = {
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not {module for module in imported if module.startswith("loosely")}
