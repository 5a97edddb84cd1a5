"""Encode and decode heartbeats: small blobs in which each worker process describes itself.

Each worker overwrites its own blob every few seconds, so that any instance of the gateway can read
which workers are alive. A worker counts as alive if its last write is recent. A worker deletes its
blob when it ends. The blob of a killed worker stays, and the gateway's housekeeping deletes it.

Only gateways and workers may write to the container of these blobs, not producers and callers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from contract.errors import MalformedMessage
from contract.messages import Fields, Json, format_time

MAX_HEARTBEAT_BYTES: Final = 64 * 1024
"""The size in bytes of the largest heartbeat that a gateway reads."""

SILENT_AFTER_INTERVALS: Final = 2.5
"""A worker that misses its heartbeat for this many intervals counts as silent."""

MAX_MODELS: Final = 200
_MAX_TEXT: Final = 500


class ModelState(StrEnum):
    """The state of a model in a worker.

    A model is `unloaded` while it waits for device memory, and `broken` if its last load failed.
    """

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class ModelHeartbeat:
    """What a heartbeat says about one model of the worker.

    Attributes:
        name: The model's name.
        state: The state of the model in the worker, for example `loaded`.
        code: The code of the error of the last load; None if the last load did not fail.
        reason: The text of the error of the last load; None if the last load did not fail.
        load_seconds: How long the last load took; None before the first load has ended.
        in_flight: How many of the model's messages the worker has received and not settled.
        batch_size: How many jobs ran in the last batch; None before the first batch.
        device_bytes: The device memory that is reserved for the model; None without a device.
    """

    name: str
    state: ModelState
    code: str | None = None
    reason: str | None = None
    load_seconds: float | None = None
    in_flight: int = 0
    batch_size: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker process says about itself.

    Attributes:
        worker: The name of the worker, as in the timelines of jobs.
        version: The version of the worker's code.
        started_at: When the process started, by the worker's clock.
        interval_seconds: How often the worker writes its heartbeat.
        is_draining: Whether the worker is shutting down.
        device: The name of the device that runs the models.
        total_bytes: The device memory that all models together may use; None if it is unlimited.
        used_bytes: The device memory that this process uses; None without a device.
        models: The models that the worker serves.
        replaced: The name of the dead process that this process replaces; None if it replaces none.
        death: How the replaced process died, for example `exited with code 1`.
    """

    worker: str
    version: str
    started_at: datetime
    interval_seconds: float
    is_draining: bool = False
    device: str = "cpu"
    total_bytes: int | None = None
    used_bytes: int | None = None
    models: tuple[ModelHeartbeat, ...] = ()
    replaced: str | None = None
    death: str | None = None


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """Encode a heartbeat as JSON, without the members that are None."""
    value: dict[str, Json] = {
        "worker": heartbeat.worker,
        "version": heartbeat.version,
        "started_at": format_time(heartbeat.started_at),
        "interval_seconds": heartbeat.interval_seconds,
        "is_draining": heartbeat.is_draining,
        "device": heartbeat.device,
        "total_bytes": heartbeat.total_bytes,
        "used_bytes": heartbeat.used_bytes,
        "models": [_model_to_json(model) for model in heartbeat.models],
        "replaced": heartbeat.replaced,
        "death": heartbeat.death,
    }
    return json.dumps(_without_none(value), separators=(",", ":")).encode()


def decode_heartbeat(data: bytes) -> Heartbeat:
    """Decode a heartbeat. Raises MalformedMessage if it is not valid."""
    if len(data) > MAX_HEARTBEAT_BYTES:
        raise MalformedMessage(
            f"the heartbeat has {len(data)} bytes; at most {MAX_HEARTBEAT_BYTES} are allowed"
        )
    try:
        fields = Fields(json.loads(data))
    except (ValueError, RecursionError):
        raise MalformedMessage("the heartbeat is not JSON in UTF-8") from None
    return Heartbeat(
        worker=fields.text("worker")[:_MAX_TEXT],
        version=fields.text("version")[:_MAX_TEXT],
        started_at=fields.time("started_at"),
        interval_seconds=fields.number("interval_seconds"),
        is_draining=fields.boolean("is_draining"),
        device=fields.text("device")[:_MAX_TEXT],
        total_bytes=_optional_integer(fields, "total_bytes"),
        used_bytes=_optional_integer(fields, "used_bytes"),
        models=tuple(_models_from_json(fields)),
        replaced=_optional_short_text(fields, "replaced"),
        death=_optional_short_text(fields, "death"),
    )


def _model_to_json(model: ModelHeartbeat) -> dict[str, Json]:
    return _without_none(
        {
            "name": model.name,
            "state": model.state.value,
            "code": model.code,
            "reason": None if model.reason is None else model.reason[:_MAX_TEXT],
            "load_seconds": model.load_seconds,
            "in_flight": model.in_flight,
            "batch_size": model.batch_size,
            "device_bytes": model.device_bytes,
        }
    )


def _models_from_json(fields: Fields) -> Iterator[ModelHeartbeat]:
    listed = fields.raw("models")
    if not isinstance(listed, list) or len(listed) > MAX_MODELS:
        raise MalformedMessage(f"models: expected a list of at most {MAX_MODELS} models")
    for number, value in enumerate(listed):
        model = Fields(value, f"models[{number}]")
        state = model.text("state")
        if state not in list(ModelState):
            raise MalformedMessage(
                f"models[{number}].state: expected one of {', '.join(ModelState)}, "
                f"found {state[:50]!r}"
            )
        yield ModelHeartbeat(
            name=model.text("name")[:_MAX_TEXT],
            state=ModelState(state),
            code=model.optional_text("code"),
            reason=model.optional_text("reason"),
            load_seconds=model.optional_number("load_seconds"),
            in_flight=model.integer("in_flight"),
            batch_size=_optional_integer(model, "batch_size"),
            device_bytes=_optional_integer(model, "device_bytes"),
        )


def _optional_short_text(fields: Fields, name: str) -> str | None:
    text = fields.optional_text(name)
    return None if text is None else text[:_MAX_TEXT]


def _optional_integer(fields: Fields, name: str) -> int | None:
    return None if fields.optional_number(name) is None else fields.integer(name)


def _without_none(value: dict[str, Json]) -> dict[str, Json]:
    return {name: each for name, each in value.items() if each is not None}
