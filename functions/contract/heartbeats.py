"""Encode and decode heartbeats: small blobs in which each worker process describes itself.

Each worker overwrites its own blob every few seconds, so that any instance of the gateway can read
which workers are alive. A worker counts as alive if its last write is recent. A worker deletes its
blob when it ends. The blob of a killed worker stays, and the gateway's housekeeping deletes it.

Only gateways and workers may write to the container of these blobs, not producers and callers.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from contract.errors import MalformedMessage
from contract.messages import Fields, format_time, without_none

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

    `code` and `reason` describe the error of the last load; None if it did not fail. `in_flight` is
    how many of the model's messages the worker has received and not settled, `batch_size` is how
    many jobs ran in the last batch, and `device_bytes` is the memory that is reserved for the
    model. A concurrent model has `concurrent_jobs`, how many jobs it runs now, and
    `max_concurrent_jobs`. `streams` is how many of the running jobs have a stream. `loading` is
    what the model's load does now, for example `downloading`; None if the model did not say so.
    """

    name: str
    state: ModelState
    code: str | None = None
    reason: str | None = None
    load_seconds: float | None = None
    in_flight: int = 0
    batch_size: int | None = None
    device_bytes: int | None = None
    concurrent_jobs: int | None = None
    max_concurrent_jobs: int | None = None
    streams: int | None = None
    loading: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker process says about itself.

    `worker` is its name in the timelines of jobs, and `started_at` is by its clock. `total_bytes`
    is the device memory that all models together may use; None if it is unlimited. `used_bytes` is
    what this process uses. `replaced` is the name of the dead process that this process replaces,
    and `death` is how it died, for example `exited with code 1`.
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
    value = asdict(heartbeat) | {"started_at": format_time(heartbeat.started_at)}
    value["models"] = [without_none(model) for model in value["models"]]
    for model in value["models"]:
        for key in {"reason", "loading"} & model.keys():
            model[key] = model[key][:_MAX_TEXT]
    return json.dumps(without_none(value), separators=(",", ":")).encode()


def decode_heartbeat(data: bytes) -> Heartbeat:
    """Decode a heartbeat. Raises MalformedMessage if it is not valid."""
    fields = Fields.parse(data, MAX_HEARTBEAT_BYTES, "the heartbeat")
    return Heartbeat(
        worker=fields.text("worker")[:_MAX_TEXT],
        version=fields.text("version")[:_MAX_TEXT],
        started_at=fields.time("started_at"),
        interval_seconds=fields.number("interval_seconds"),
        is_draining=fields.boolean("is_draining"),
        device=fields.text("device")[:_MAX_TEXT],
        total_bytes=fields.optional(fields.integer, "total_bytes"),
        used_bytes=fields.optional(fields.integer, "used_bytes"),
        models=tuple(_models_from_json(fields)),
        replaced=_optional_short_text(fields, "replaced"),
        death=_optional_short_text(fields, "death"),
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
            load_seconds=model.optional(model.number, "load_seconds"),
            in_flight=model.integer("in_flight"),
            batch_size=model.optional(model.integer, "batch_size"),
            device_bytes=model.optional(model.integer, "device_bytes"),
            concurrent_jobs=model.optional(model.integer, "concurrent_jobs"),
            max_concurrent_jobs=model.optional(model.integer, "max_concurrent_jobs"),
            streams=model.optional(model.integer, "streams"),
            loading=_optional_short_text(model, "loading"),
        )


def _optional_short_text(fields: Fields, name: str) -> str | None:
    text = fields.optional_text(name)
    return None if text is None else text[:_MAX_TEXT]
