"""Run child jobs: jobs of other models that a model submits while one of its own jobs runs.

A request for a child job is a POST to the children URL of the running job. The gateway answers when
the job has ended. If the job takes longer than one request may last, the request is repeated.

The key of a child job depends on the order of the calls, on the model and on the input. If the
parent job runs again, for example because its worker was killed, it finds the child jobs of its
first run, and their results.
"""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from PIL import Image

from contract import media
from contract.catalogue import Catalogue, ModelEntry
from contract.errors import ContractError, UnknownModel
from contract.messages import Fields, InlineJson, Payload, PayloadRef, payload_from_json
from contract.names import children_url
from worker.errors import ChildFailed, HandedBack, InferenceFailed, NotWaitedFor, Settlement
from worker.inference.loaded_model import dump_json, encode_result
from worker.inputs.payloads import BlobPayloads
from worker.models import Results
from worker.replies import GatewayClient, has_code
from worker.retries import backoff_seconds

MAX_AT_ONCE: Final = 16
"""How many child jobs of one call run at the same time."""

MAX_INPUTS: Final = 1000
"""How many inputs one call may have."""

# A request waits this long for the end of its child job. The threads of an ended call end with it.
_WAIT_SECONDS: Final = 5
_CHECK_SECONDS: Final = 0.25
_LOSSLESS_FIRST: Final = ("image/png", "image/webp", "image/jpeg")


class _Request(NamedTuple):
    body: bytes
    media_type: str | None
    url: str


@dataclass(frozen=True, slots=True)
class ChildServices:
    """What the jobs of a process share to run child jobs."""

    gateway: GatewayClient
    catalogue: Catalogue
    payloads: BlobPayloads


class JobChildren:
    """Runs the child jobs of one running job, on the thread that runs the model.

    `release_device` returns a context manager in which other models may use the device.
    `must_unload` says whether another model needs the memory of the job's model.
    """

    def __init__(
        self,
        services: ChildServices,
        reply_url: str | None,
        release_device: Callable[[], AbstractContextManager[None]],
        must_unload: Callable[[], bool],
    ) -> None:
        self._services = services
        self._url = children_url(reply_url or "")
        self._release_device = release_device
        self._must_unload = must_unload
        self._calls = count(1)

    def run_child_jobs(
        self,
        model: str,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any],
        check: Callable[[], None],
    ) -> list[Any]:
        """Run one job of another model for each input, and return their results in this order.

        `check` raises an error if the parent job must stop. Unless the parent job runs again, an
        error cancels the child jobs.

        Raises:
            ChildFailed: A child job has failed or was refused.
            InferenceFailed: The other model is unknown, or cannot read such an input.
            HandedBack: Another model needs the memory of this model. The parent job runs again, and
                then finds the results of its child jobs.
        """
        if self._url is None:
            raise InferenceFailed(
                "the job was sent to the queue directly, so it cannot run jobs of other models; "
                "submit it through the gateway"
            )
        if len(inputs) > MAX_INPUTS:
            raise InferenceFailed(
                f"context.run got {len(inputs)} inputs; at most {MAX_INPUTS} are allowed in a call"
            )
        try:
            entry = self._services.catalogue.model(model)
        except UnknownModel as error:
            raise InferenceFailed(f"context.run: {error}") from None
        call = next(self._calls)
        requests = [
            self._make_request(entry, model, (call, number), value, parameters)
            for number, value in enumerate(inputs)
        ]
        if not requests:
            return []
        stopping = threading.Event()
        threads = ThreadPoolExecutor(min(len(requests), MAX_AT_ONCE), "child")
        try:
            with self._release_device():
                futures = [
                    threads.submit(self._run_one, request, model, stopping) for request in requests
                ]
                waiting = set(futures)
                while waiting:
                    ended, waiting = wait(waiting, _CHECK_SECONDS, return_when=FIRST_EXCEPTION)
                    for future in ended:
                        future.result()
                    check()
                    if waiting:
                        self._check_memory(model)
            return [future.result() for future in futures]
        except BaseException as error:
            # If the parent job runs again, it needs its child jobs.
            if getattr(error, "settlement", Settlement.COMPLETE) is Settlement.COMPLETE:
                self._services.gateway.cancel_children(self._url)
            raise
        finally:
            stopping.set()
            threads.shutdown(wait=False, cancel_futures=True)

    def _check_memory(self, model: str) -> None:
        if self._must_unload():
            raise HandedBack(
                f"this model must be unloaded while it waits for {model}; the job runs again later"
            )

    def _make_request(
        self,
        entry: ModelEntry,
        model: str,
        position: tuple[int, int],
        value: Any,
        parameters: Mapping[str, Any],
    ) -> _Request:
        body, media_type = _encode_input(entry, value)
        query = {"model": model}
        if parameters:
            query["parameters"] = json.dumps(parameters)
        text = json.dumps([*position, query, media_type])
        digest = hashlib.sha256(text.encode() + b"\n" + body)
        query["key"] = digest.hexdigest()
        return _Request(body, media_type, f"{self._url}&{urlencode(query)}")

    def _run_one(self, request: _Request, model: str, stopping: threading.Event) -> Any:
        """Send a request until its child job has ended, and return the job's result."""
        body, attempts = request.body, count()
        while not stopping.is_set():
            status, content = self._services.gateway.run_child(
                request.url, body, request.media_type, _WAIT_SECONDS
            )
            if status == 200:
                return self._read_result(content, model, stopping)
            if status == 202:
                body = b""  # the job exists
                continue
            if status == 410 and has_code(content, "already-final"):
                raise NotWaitedFor("the parent job has ended")
            if status is not None and status < 500 and status not in {404, 408, 425, 429}:
                raise ChildFailed(_describe_problem(model, status, content))
            if status == 404 and has_code(content, "unknown-model"):
                raise ChildFailed(_describe_problem(model, status, content))
            body = request.body
            stopping.wait(backoff_seconds(next(attempts)))
        raise NotWaitedFor("the parent job no longer waits for this child job")

    def _read_result(self, content: bytes, model: str, stopping: threading.Event) -> Any:
        child = json.loads(content)
        if child["status"] != "succeeded":
            error = child["error"] or {}
            raise ChildFailed(
                f"the child job {child['id']} of the model {model} has the status "
                f"{child['status']}: {error.get('code', '')} {error.get('message', '')}".rstrip()
            )
        try:
            first = payload_from_json(Fields(child["result"]))
            named = {
                name: payload_from_json(Fields(value)) for name, value in child["results"].items()
            }
        except ContractError as error:
            raise ChildFailed(f"the result of the child job {child['id']}: {error}") from None
        result = self._decode(first, stopping)
        if not named:
            return result
        return Results(
            result, **{name: self._decode(payload, stopping) for name, payload in named.items()}
        )

    def _decode(self, payload: Payload, stopping: threading.Event) -> Any:
        match payload:
            case InlineJson(value):
                return value
            case PayloadRef():
                data = self._services.payloads.fetch_result(
                    payload, lambda seconds: not stopping.wait(seconds)
                )
            case _:
                data = payload.data
        if payload.media_type.startswith("image/"):
            image = Image.open(io.BytesIO(data))
            image.load()
            return image
        if payload.media_type.startswith("text/"):
            return data.decode("utf-8", "replace")
        return json.loads(data) if payload.media_type == media.JSON else data


def _encode_input(entry: ModelEntry, value: Any) -> tuple[bytes, str | None]:
    """Return the body and the media type of a request; None if the gateway shall recognise it."""
    accepted = entry.media_types
    is_array = hasattr(value, "__array_interface__") and not isinstance(value, Image.Image)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), None
    if isinstance(value, Image.Image):
        media_type: str | None = next((each for each in _LOSSLESS_FIRST if each in accepted), None)
    elif isinstance(value, str):
        media_type = next((each for each in accepted if each.startswith("text/")), None)
    elif is_array and media.NPY in accepted:
        import numpy as np  # noqa: PLC0415  only where it is needed

        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return file.getvalue(), media.NPY
    else:
        media_type = None
    if media_type is not None:
        encoded = encode_result(value, media_type)
        return (b"" if isinstance(encoded, InlineJson) else encoded.data), media_type
    if media.JSON not in accepted or is_array or isinstance(value, Image.Image):
        raise InferenceFailed(
            f"context.run: the model {entry.name} does not accept a {type(value).__name__}; it "
            f"accepts {', '.join(accepted)}"
        )
    return dump_json({"input": {"json": value}}), media.JSON


def _describe_problem(model: str, status: int, content: bytes) -> str:
    try:
        problem = json.loads(content)
        detail = f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP status {status}"
    return f"the gateway refused a child job of the model {model}: {detail}"
