import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.functions.errors import HostDirectoryInUse
from emulator.functions.host import lock_data_directory
from emulator.functions.settings import (
    DurableOptions,
    HostFile,
    parse_host_file,
    parse_timespan,
    read_app_settings,
    read_host_file,
    resolve,
)
from emulator.program import SettingError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_host_file_has_azures_defaults() -> None:
    assert parse_host_file({"version": "2.0"}) == HostFile()
    assert HostFile().route_prefix == "api"


def test_supported_settings_are_read() -> None:
    found = parse_host_file(
        {
            "version": "2.0",
            "functionTimeout": "00:10:00",
            "extensionBundle": {"id": "x", "version": "[4.*, 5.0.0)"},
            "extensions": {
                "http": {"routePrefix": "/v1/", "maxOutstandingRequests": 5},
                "durableTask": {
                    "hubName": "Hub",
                    "maxConcurrentActivityFunctions": 3,
                    "maxConcurrentOrchestratorFunctions": 2,
                    "defaultVersion": "2.0",
                    "overridableExistingInstanceStates": "AnyState",
                    "storageProvider": {},
                },
                "serviceBus": {
                    "maxConcurrentCalls": 4,
                    "maxAutoLockRenewalDuration": "00:02:30",
                    "prefetchCount": 0,
                },
            },
        }
    )
    assert (found.route_prefix, found.function_timeout_seconds) == ("v1", 600)
    assert found.durable == DurableOptions("Hub", 3, 2, "2.0", replaces_unfinished=True)
    assert found.has_extension_bundle
    assert found.max_outstanding_requests == 5
    assert found.service_bus.max_concurrent_calls == 4
    assert found.service_bus.max_lock_renewal_seconds == 150


def test_timeout_of_minus_one_means_none() -> None:
    found = parse_host_file({"version": "2.0", "functionTimeout": "-1"})
    assert found.function_timeout_seconds is None


@given(st.dictionaries(st.sampled_from(["extensions", "functionTimeout", "x"]), json_values))
def test_random_host_file_is_read_or_raises_setting_error(
    document: dict[str, object],
) -> None:
    with contextlib.suppress(SettingError):
        parse_host_file({"version": "2.0", **document})


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:00:01", 1), ("1.00:00:00", 86400), ("00:05", 300)]
)
def test_time_span_is_converted_to_seconds(text: str, seconds: float) -> None:
    assert parse_timespan(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-00:01:00", "a:b:c", "00:00:00:00"])
def test_invalid_time_span_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        parse_timespan(text)


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text('\ufeff{"version": "2.0"}', encoding="utf-8")
    assert read_host_file(tmp_path) == HostFile()


def test_environment_precedes_local_settings(tmp_path: Path) -> None:
    (tmp_path / "local.settings.json").write_text('\ufeff{"Values": {"A": "file", "B": "file"}}')
    settings = read_app_settings(tmp_path, {"B": "environment"})
    assert settings == {"A": "file", "B": "environment"}
    assert read_app_settings(tmp_path, {"A": ""}) == {"A": "", "B": "file"}
    assert read_app_settings(tmp_path / "none", {}) == {}
    more = tmp_path / "more.json"
    more.write_text('{"Values": {"A": "more", "B": "more"}}')
    settings = read_app_settings(tmp_path, {"B": "environment"}, more)
    assert settings == {"A": "more", "B": "environment"}


def test_references_in_bindings_are_resolved() -> None:
    settings = {"QUEUE": "jobs", "N": "1"}
    binding = {"queueName": "%QUEUE%-%N%", "list": ["%N%"], "count": 3, "percent": "100% sure"}
    assert resolve(binding, settings) == {
        "queueName": "jobs-1",
        "list": ["1"],
        "count": 3,
        "percent": "100% sure",
    }
    with pytest.raises(SettingError, match="'%NONE%' does not resolve to a value"):
        resolve("%NONE%", settings)


def test_data_directory_is_locked_by_one_host(tmp_path: Path) -> None:
    with (
        lock_data_directory(tmp_path / "data"),
        pytest.raises(HostDirectoryInUse),
        lock_data_directory(tmp_path / "data"),
    ):
        pass
    with lock_data_directory(tmp_path / "data"):
        pass
