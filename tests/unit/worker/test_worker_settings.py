"""Test the worker's settings: defaults, errors that name the variable, and hidden secrets."""

from pathlib import Path

import pytest

from contract.errors import InvalidSetting
from contract.settings import AzureEndpoint
from worker.processes.setup import available_processors, torch_threads
from worker.settings import (
    HubSettings,
    MemorySettings,
    ScheduledEventMode,
    ScheduledEventSettings,
    WeightsSettings,
    WorkerSettings,
)

LEAST = {
    "SERVICE_BUS": "Endpoint=sb://here;SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0",
    "PAYLOAD_STORAGE": "AccountName=a;AccountKey=c2VjcmV0",
    "REPLY_HOSTS": "127.0.0.1:7071",
}


def test_settings_have_default_values() -> None:
    settings = WorkerSettings.from_env(LEAST)
    assert settings.models == ()
    assert settings.health_host == "127.0.0.1"
    assert settings.health_port == 8081
    assert settings.drain_seconds == 30.0
    assert settings.torch_threads == torch_threads(available_processors())
    assert settings.log_level == "INFO"
    assert settings.catalogue.name == "models.toml"
    assert settings.log_format == "text"
    assert settings.weights.cache.parts[-2:] == ("loosely", "weights")
    assert settings.trace_exporters == ()
    assert settings.scheduled_events == ScheduledEventSettings(
        ScheduledEventMode.OFF, "http://169.254.169.254", ""
    )


def test_settings_are_read_from_the_environment() -> None:
    settings = WorkerSettings.from_env(
        {
            "SERVICE_BUS__fullyQualifiedNamespace": "ns.servicebus.windows.net",
            "PAYLOAD_STORAGE__blobServiceUri": "https://a.blob.core.windows.net",
            "MODEL_CATALOGUE": "/etc/models.toml",
            "WORKER_MODELS": "noop, classifier,",
            "REPLY_HOSTS": "API.example.com:443,[::1]:80,http://Gateway:7071,APIM.example.com:443/Base",
            "HEALTH_HOST": "0.0.0.0",
            "HEALTH_PORT": "0",
            "WORKER_DRAIN_SECONDS": "2.5",
            "TORCH_THREADS": "4",
            "LOG_LEVEL": "debug",
            "LOG_FORMAT": "json",
            "OTEL_TRACES_EXPORTER": "otlp, console,none",
            "WORKER_SCHEDULED_EVENTS": "acknowledge",
            "WORKER_METADATA_URL": "http://127.0.0.1:8000",
            "WORKER_MACHINE": "aks-gpu-1_0",
        }
    )
    assert settings.broker.service_bus == AzureEndpoint(address="ns.servicebus.windows.net")
    assert settings.payload_storage == AzureEndpoint(address="https://a.blob.core.windows.net")
    assert settings.models == ("noop", "classifier")
    assert settings.reply_hosts == {
        "api.example.com:443",
        "[::1]:80",
        "http://gateway:7071",
        "apim.example.com:443/Base",
    }
    assert settings.drain_seconds == 2.5
    assert settings.torch_threads == 4
    assert settings.log_format == "json"
    assert settings.trace_exporters == ("otlp", "console")
    assert settings.scheduled_events == ScheduledEventSettings(
        ScheduledEventMode.ACKNOWLEDGE, "http://127.0.0.1:8000", "aks-gpu-1_0"
    )


def test_disabled_sdk_has_no_trace_exporters() -> None:
    switched_off = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}
    assert WorkerSettings.from_env({**LEAST, **switched_off}).trace_exporters == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_BUS", ""),
        ("PAYLOAD_STORAGE", ""),
        ("REPLY_HOSTS", ""),
        ("REPLY_HOSTS", "gateway"),
        ("REPLY_HOSTS", "https://gateway:443/x"),
        ("REPLY_HOSTS", "gateway:https"),
        ("REPLY_HOSTS", "http://gateway"),
        ("REPLY_HOSTS", "http://http://gateway:7071"),
        ("REPLY_HOSTS", "gateway:443/a?b"),
        ("HEALTH_PORT", "65536"),
        ("HEALTH_PORT", "²"),
        ("HEALTH_PORT", "-1"),
        ("WORKER_DRAIN_SECONDS", "soon"),
        ("WORKER_DRAIN_SECONDS", "nan"),
        ("WORKER_DRAIN_SECONDS", "-1"),
        ("TORCH_THREADS", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("WORKER_REQUIRE_DEVICE", "gpu"),
        ("WORKER_SCHEDULED_EVENTS", "true"),
        ("WORKER_METADATA_URL", "http://host/path"),
        ("WORKER_METADATA_URL", "http://host:²"),
        ("HF_ENDPOINT", "huggingface.co"),
        ("HF_ENDPOINT", "https://user:password@hub.example"),
        ("HF_TOKEN", "hf_a b"),
        ("HF_HUB_OFFLINE", "maybe"),
        ("WORKER_WEIGHTS_CACHE_SIZE", "64"),
    ],
)
def test_error_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=name):
        WorkerSettings.from_env({**LEAST, name: value})


def test_repr_has_no_secrets() -> None:
    assert "c2VjcmV0" not in repr(WorkerSettings.from_env(LEAST))


def test_weights_settings_are_read() -> None:
    weights = WorkerSettings.from_env(LEAST).weights
    assert (weights.cache_limit_bytes, weights.hub) == (
        None,
        HubSettings("https://huggingface.co", ""),
    )
    told = {
        "HF_ENDPOINT": "https://hub.example:8443/mirror/",
        "HF_TOKEN": "hf_c2VjcmV0\n",
        "WORKER_WEIGHTS_CACHE_SIZE": "64GiB",
        "WORKER_WEIGHTS_CACHE": "/cache",
    }
    weights = WorkerSettings.from_env(LEAST | told).weights
    hub = HubSettings("https://hub.example:8443/mirror", "hf_c2VjcmV0")
    assert weights == WeightsSettings(Path("/cache"), 64 << 30, hub)
    assert "c2VjcmV0" not in repr(weights)
    assert WorkerSettings.from_env(LEAST | told | {"HF_HUB_OFFLINE": "1"}).weights.hub is None


def test_hub_token_needs_tls_except_on_loopback() -> None:
    token = {"HF_TOKEN": "hf_c2VjcmV0"}
    with pytest.raises(InvalidSetting, match="HF_ENDPOINT: expected https://") as raised:
        WorkerSettings.from_env({**LEAST, **token, "HF_ENDPOINT": "http://hub.example"})
    assert "c2VjcmV0" not in str(raised.value)
    local = {**LEAST, **token, "HF_ENDPOINT": "http://127.0.0.1:80"}
    assert WorkerSettings.from_env(local).weights.hub is not None


def test_memory_settings_are_read() -> None:
    memory = WorkerSettings.from_env(LEAST).memory
    assert memory.budget_bytes is None
    assert memory.is_admitting
    assert memory.turn_seconds == 5.0
    assert memory.folder.is_absolute()
    assert not memory.is_cuda_required
    told = {
        "WORKER_DEVICE_MEMORY": "8GiB",
        "WORKER_MEMORY_FOLDER": "/run/loosely",
        "WORKER_ADMISSION": "off",
        "WORKER_TURN_SECONDS": "0.5",
        "WORKER_CARD_SHARES": "2",
        "WORKER_REQUIRE_DEVICE": "cuda",
    }
    memory = WorkerSettings.from_env(LEAST | told).memory
    assert memory == MemorySettings(8 << 30, Path("/run/loosely"), False, 0.5, 2, True)


@pytest.mark.parametrize("text", ["8", "8GB", "0GiB", "-1GiB", "1.5GiB", "GiB", "8 GiB", "²GiB"])
def test_invalid_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"WORKER_DEVICE_MEMORY: expected a size such as 8GiB"):
        WorkerSettings.from_env(LEAST | {"WORKER_DEVICE_MEMORY": text})
