"""What a submit brings: from any of the three kinds of body to one payload with options."""

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from contract import media
from contract.catalogue import Model
from contract.fields import Json
from contract.messages import PayloadUrl
from gateway import problems
from gateway.api.context import body_of
from gateway.api.submitting.checks import (
    check_accepted,
    check_coding,
    check_options,
    check_size,
    checked_media_type,
    checked_priority,
    checked_webhook_url,
)
from gateway.problems import Problem
from gateway.queueing.priority import Priority
from gateway.strict_json import encode, parse

_NO_TEXTS: Final = frozenset({"parameters", "deadline_seconds"})
_OPTIONS: Final = _NO_TEXTS | {"priority", "webhook_url"}
_MEMBERS: Final = _NO_TEXTS | {"input", "priority", "webhook"}
_INPUTS: Final = ("base64", "json", "text", "upload", "url")
_ENVELOPE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Intake:
    """A checked submit. Where the worker fetches its data, from a `url` or `upload`, none is here.

    An upload itself is looked at later: a repeat of its submit is good for longer than the upload.
    """

    media_type: str
    data: bytes
    parameters: dict[str, Json]
    deadline_seconds: int
    url: PayloadUrl | None = None
    upload: str | None = None
    webhook_url: str | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL


async def read_intake(request: Request, model: Model, options: Mapping[str, str]) -> Intake:
    """Read and check the body; `options` are the query's. Raises Problem."""
    content_type = request.headers.get("content-type", "")
    kind = media.essence(content_type)
    check_coding(request.headers.get("content-encoding", ""))
    _check_announced_size(request, model, kind)
    if upload := options.get("upload"):
        if await request.body():
            raise Problem(problems.MALFORMED_REQUEST, "upload: is the input, so send no body")
        return _from_upload(model, kind or None, upload, options)
    if kind == "multipart/form-data":
        return await _from_form(request, model, options)
    body = await body_of(request)
    if kind == media.JSON:
        return _from_envelope(body, model, options)
    return _intake(model, kind or None, body, options)


def _check_announced_size(request: Request, model: Model, kind: str) -> None:
    text = request.headers.get("content-length", "")
    if text.isascii() and text.isdigit():
        check_size(model, int(text[:15]), allowance_bytes=_allowance_bytes(model, kind))


def _allowance_bytes(model: Model, kind: str) -> int:
    if kind == media.JSON:
        return model.max_input_bytes // 3 + _ENVELOPE_BYTES  # base64 makes three bytes four
    return _ENVELOPE_BYTES if kind == "multipart/form-data" else 0


async def _from_form(request: Request, model: Model, options: Mapping[str, str]) -> Intake:
    async with request.form(max_files=2, max_fields=8, max_part_size=_ENVELOPE_BYTES) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or len(form.getlist("file")) > 1:
            raise Problem(problems.MALFORMED_REQUEST, "expected exactly one part named file")
        given = {**options, **_form_options(form)}
        check_size(model, file.size or 0)
        kind = media.essence(file.content_type or "") or None
        return _intake(model, kind, await file.read(), given)


def _form_options(form: FormData) -> dict[str, str]:
    options = {}
    for name, value in form.multi_items():
        if name == "file":
            continue
        if name not in _OPTIONS or isinstance(value, UploadFile):
            raise Problem(problems.MALFORMED_REQUEST, f"unknown part {name[:100]!r}")
        if name in options:
            raise Problem(problems.MALFORMED_REQUEST, f"{name}: is given more than once")
        options[name] = value
    return options


def _from_envelope(body: bytes, model: Model, options: Mapping[str, str]) -> Intake:
    check_size(model, len(body), allowance_bytes=_allowance_bytes(model, media.JSON))
    try:
        envelope = parse(body)
    except ValueError as error:
        raise Problem(problems.MALFORMED_REQUEST, f"the body is not JSON: {error}") from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("input"), dict):
        raise Problem(problems.MALFORMED_REQUEST, 'expected {"input": {…}, …}')
    _refuse_others("", envelope, _MEMBERS)
    for name in _NO_TEXTS:
        # As texts they are for queries and forms, which have nothing else.
        if isinstance(envelope.get(name), str):
            raise Problem(problems.MALFORMED_REQUEST, f"{name}: cannot be a text in JSON")
    source = envelope.pop("input")
    given_options = {**options, **_with_webhook_url(envelope)}
    _refuse_others("input.", source, {*_INPUTS, "media_type"})
    given = [name for name in _INPUTS if name in source]
    if len(given) != 1:
        raise Problem(
            problems.MALFORMED_REQUEST, f"input: expected exactly one of {', '.join(_INPUTS)}"
        )
    announced = source.get("media_type")
    if announced is not None and not isinstance(announced, str):
        raise Problem(problems.MALFORMED_REQUEST, "input.media_type: expected a text")
    if given[0] == "upload":
        return _from_upload(model, announced, source["upload"], given_options)
    if given[0] == "url":
        return _from_url(model, announced, source["url"], given_options)
    data, default_type = _input_bytes(given[0], source[given[0]])
    kind = media.essence(announced) if announced else default_type
    return _intake(model, kind, data, given_options)


def _from_upload(
    model: Model, announced: str | None, upload: Json, options: Mapping[str, Json]
) -> Intake:
    if not isinstance(upload, str):
        raise Problem(problems.MALFORMED_REQUEST, "input.upload: expected a text")
    return _made(model, media.essence(announced or ""), b"", options, upload=upload)


def _from_url(
    model: Model, announced: str | None, url: Json, options: Mapping[str, Json]
) -> Intake:
    if not isinstance(url, str):
        raise Problem(problems.MALFORMED_REQUEST, "input.url: expected a text")
    media_type = media.essence(announced) if announced else None
    if media_type:
        check_accepted(model, media_type)
    return _made(model, "", b"", options, url=PayloadUrl(url, media_type))


def _with_webhook_url(envelope: dict[str, Json]) -> dict[str, Json]:
    """The envelope's options as a query spells them."""
    webhook = envelope.pop("webhook", None)
    if webhook is None:
        return envelope
    is_object = isinstance(webhook, dict) and set(webhook) == {"url"}
    if not is_object or not isinstance(webhook["url"], str):
        raise Problem(problems.MALFORMED_REQUEST, 'webhook: expected {"url": …}')
    return {**envelope, "webhook_url": webhook["url"]}


def _refuse_others(path: str, found: Mapping[str, Json], known: Collection[str]) -> None:
    for name in found:
        if name not in known:
            raise Problem(problems.MALFORMED_REQUEST, f"unknown member {path}{name[:100]}")


def _input_bytes(form: str, value: Json) -> tuple[bytes, str | None]:
    """The bytes of `input`, and their media type where the form tells."""
    try:
        if form == "json":
            return encode(value), media.JSON
        if not isinstance(value, str):
            raise Problem(problems.MALFORMED_REQUEST, f"input.{form}: expected a text")
        if form == "text":
            return value.encode(), media.TEXT
        return base64.b64decode(value, validate=True), None
    except (binascii.Error, ValueError):
        raise Problem(problems.MALFORMED_REQUEST, f"input.{form}: cannot be read") from None


def _intake(
    model: Model, announced: str | None, data: bytes, options: Mapping[str, Json]
) -> Intake:
    check_size(model, len(data))
    return _made(model, checked_media_type(model, announced, data), data, options)


def _made(
    model: Model, media_type: str, data: bytes, options: Mapping[str, Json], **source: Any
) -> Intake:
    parameters, deadline_seconds = check_options(model, options)
    return Intake(
        media_type,
        data,
        parameters,
        deadline_seconds,
        webhook_url=checked_webhook_url(options),
        priority=checked_priority(options),
        **source,
    )
