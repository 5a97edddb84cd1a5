"""Validate a request that submits a job: a body that is the input itself, a form, or JSON."""

import base64
import binascii
import contextlib
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from contract import media
from contract.catalogue import ENVELOPE_BYTES, Catalogue, ModelEntry, Priority
from contract.errors import UnknownModel
from contract.guard import MAX_URL_CHARACTERS
from contract.messages import Json, PayloadRef, PayloadUrl
from contract.parameters import InvalidParameter, check_parameters
from gateway import problems
from gateway.bodies import HeldBytes, IncomingBody, LargeBodies
from gateway.errors import TruncatedImage, UnreadableImage
from gateway.json_text import encode_json, has_more_values, parse_json
from gateway.problems import HttpProblem, invalid_input, malformed
from gateway.submission.forms import FormPart, read_form
from gateway.submission.images import read_dimensions

_NOT_TEXT: Final = frozenset({"parameters", "deadline_seconds", "stream"})
_OPTIONS: Final = _NOT_TEXT | {"label", "priority", "webhook_url"}
_MEMBERS: Final = _NOT_TEXT | {"input", "inputs", "label", "priority", "webhook"}
_INPUTS: Final = ("base64", "json", "text", "upload", "url")
_FORM: Final = "multipart/form-data"
_URLENCODED: Final = "application/x-www-form-urlencoded"
# Browsers and curl send the first type for files that they do not recognise, and curl sends the
# second one if the request has no Content-Type.
_UNSPECIFIC: Final = frozenset({media.OCTET_STREAM, _URLENCODED})
_MAX_UPLOAD_ID_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class RequestParts:
    """What a request says about the jobs that it submits, read once from the request.

    `options` contains the options in the query. `is_pinned` says whether the request names a
    version of the model. `parent` is the id of the job whose model sends the request.
    `wants_stream` says whether its headers ask for a stream.
    """

    content_type: str
    media_type: str
    content_encoding: str
    body: IncomingBody
    options: Mapping[str, str]
    tenant: str
    traceparent: str
    is_pinned: bool
    parent: str | None = None
    wants_stream: bool = False


@dataclass(slots=True)
class SubmittedInput:
    """One validated input; without `data` if the worker gets it. Uploads are checked later.

    `file` is the id of a file of the OpenAI API, which is checked as an upload is.
    `pieces` yields an input that is still arriving, and is replaced by `stored` when it is in a
    blob.
    """

    media_type: str
    data: bytes = field(default=b"", repr=False)
    url: PayloadUrl | None = None
    upload: str | None = None
    file: str | None = None
    pieces: AsyncIterator[bytes] | None = None
    stored: PayloadRef | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the caller has stored the input before, so that it must be looked up."""
        return self.upload is not None or self.file is not None


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """The batch to which a job belongs. Its jobs end by `deadline`, whenever they are sent."""

    id: str
    created_at: datetime
    deadline: datetime


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job; its first input is named None. `is_pinned` forbids another version."""

    model: ModelEntry
    tenant: str
    traceparent: str
    inputs: dict[str | None, SubmittedInput]
    parameters: dict[str, Json]
    deadline_seconds: int
    webhook_url: str | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL
    label: str | None = None
    is_pinned: bool = False
    parent: str | None = None
    held: HeldBytes | None = field(default=None, repr=False)
    stream: bool = False
    batch: BatchTimes | None = None
    operation: str | None = None
    metadata: Mapping[str, str] | None = None
    is_background: bool = False

    @property
    def size_bytes(self) -> int:
        """The size in bytes of all inputs that the request itself contains."""
        return sum(
            each.stored.size_bytes if each.stored else len(each.data)
            for each in self.inputs.values()
        )

    def drop_data(self) -> None:
        """Release the memory of the inputs, which are now in the job's message or in blobs."""
        for each in self.inputs.values():
            each.data = b""
        if self.held is not None:
            self.held.release()


def find_model(catalogue: Catalogue, name: str) -> ModelEntry:
    """Return a model or version by name. Raises the problem `unknown-model`."""
    try:
        return catalogue.model(name)
    except UnknownModel as error:
        raise HttpProblem(problems.UNKNOWN_MODEL, str(error), nearest=list(error.nearest)) from None


def names_version(name: str) -> bool:
    """Return whether the name of a model in a request contains a version, as in `classifier:2`."""
    return ":" in name


async def parse_submission(parts: RequestParts, model: ModelEntry, bodies: LargeBodies) -> NewJob:
    """Validate a request that submits a job. Raises HttpProblem if it is not valid.

    A large body that is the input itself is read only when the input is stored.
    """
    kind, body = parts.media_type, parts.body
    check_coding(parts.content_encoding)
    body.limit(partial(check_size, model, allowance_bytes=_allowance_bytes(model, kind)))
    if upload := parts.options.get("upload"):
        if (await body.read_head())[0]:
            raise malformed(
                "upload: if the input is an upload, the body of the request must be empty"
            )
        first = _read_upload("input", kind or None, upload)
    elif kind in {_FORM, media.JSON}:
        read = _read_form if kind == _FORM else _read_envelope
        return await bodies.parse(parts.tenant, await body.read(), partial(read, parts, model))
    else:
        first = await _read_input_body(model, kind or media.OCTET_STREAM, body)
    return _make_job(parts, model, {None: first}, parts.options)


async def _read_input_body(model: ModelEntry, announced: str, body: IncomingBody) -> SubmittedInput:
    """Check the input that is the body of a request, by its beginning if it is large."""
    head, is_whole = await body.read_head()
    media_type = check_media_type(model, announced, head, is_whole=is_whole)
    if is_whole:
        return SubmittedInput(media_type, head)
    pieces = _check_pieces(model, media_type, body.read_rest(head))
    return SubmittedInput(media_type, pieces=pieces)


async def _check_pieces(
    model: ModelEntry, media_type: str, pieces: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Yield the pieces of an input. Raises HttpProblem if a text contains a NUL byte."""
    async for piece in pieces:
        if media_type.startswith("text/") and b"\0" in piece:
            raise _unsupported(model, f"the content is not {media_type}")
        yield piece


def _allowance_bytes(model: ModelEntry, kind: str) -> int:
    """Return by how much a body of this media type may exceed the limit of the first input."""
    if kind == media.JSON:
        return model.max_body_bytes - model.max_input_bytes
    if kind == _FORM:
        return model.max_all_inputs_bytes - model.max_input_bytes + ENVELOPE_BYTES
    return 0


def _read_form(parts: RequestParts, model: ModelEntry, body: bytes) -> NewJob:
    try:
        form = read_form(parts.content_type, body)
    except ValueError as error:
        raise malformed(f"the body is not a form: {error}") from None
    inputs: dict[str | None, SubmittedInput] = {None: _read_part(model, "file", form)}
    for name in dict.fromkeys(part.name for part in form if part.name in model.inputs):
        with naming_input(name):
            inputs[name] = _read_part(model.entry_of_input(name), name, form)
    given = {**parts.options, **_form_options(form, {"file", *inputs})}
    return _make_job(parts, model, inputs, given)


def _read_part(model: ModelEntry, name: str, form: Sequence[FormPart]) -> SubmittedInput:
    """Read the only part of a form with this name as an input."""
    found = [part for part in form if part.name == name]
    if len(found) != 1 or not found[0].is_file:
        raise malformed(
            f"the form must have exactly one part named {name}, and this part must have a file name"
        )
    return _read_bytes(model, media.essence(found[0].media_type) or None, found[0].data)


def _form_options(form: Sequence[FormPart], inputs: Collection[str | None]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in form:
        name = part.name
        if name in inputs:
            continue
        if name not in _OPTIONS or part.is_file:
            raise malformed(f"unknown part {name[:100]!r} in the form; remove it")
        if name in options:
            raise malformed(f"{name}: this option is given more than once; give it only once")
        if len(part.data) > ENVELOPE_BYTES:
            raise malformed(f"{name}: expected at most {ENVELOPE_BYTES} bytes")
        try:
            options[name] = part.data.decode()
        except UnicodeDecodeError:
            raise malformed(f"{name}: expected UTF-8") from None
    return options


def _read_envelope(parts: RequestParts, model: ModelEntry, body: bytes) -> NewJob:
    try:
        envelope = parse_json(body)
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("input"), dict):
        raise malformed(
            'the body must be a JSON object such as {"input": {"json": …}}; in place of json, the '
            "input may have text, base64, url or upload"
        )
    refuse_unknown("", envelope, _MEMBERS)
    for name in _NOT_TEXT:
        # These options are strings only in queries and forms.
        if isinstance(envelope.get(name), str):
            raise malformed(
                f"{name}: expected the JSON value itself, not a string that contains it"
            )
    inputs = read_inputs(model, envelope.pop("input"), envelope.pop("inputs", None))
    return _make_job(parts, model, inputs, {**parts.options, **_with_webhook_url(envelope)})


def read_inputs(
    model: ModelEntry, first: dict[str, Json], named: Json
) -> dict[str | None, SubmittedInput]:
    """Return the inputs in the members `input` and `inputs` of a JSON body."""
    return {None: _read_input(model, "input", first), **_read_named_inputs(model, named)}


def _read_named_inputs(model: ModelEntry, given: Json) -> dict[str | None, SubmittedInput]:
    """Return the named inputs in the member `inputs` of a JSON body."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise malformed(
            "inputs: expected a JSON object that maps the name of each input to its value"
        )
    refuse_unknown_inputs(model, given)
    inputs: dict[str | None, SubmittedInput] = {}
    for name, source in given.items():
        with naming_input(name):
            if not isinstance(source, dict):
                raise malformed(f'inputs.{name}: expected a JSON object such as {{"base64": …}}')
            inputs[name] = _read_input(model.entry_of_input(name), f"inputs.{name}", source)
    return inputs


@contextlib.contextmanager
def naming_input(name: str | None) -> Iterator[None]:
    """Name the input to which a problem applies that the `with` block raises."""
    try:
        yield
    except HttpProblem as problem:
        problem.add_input(name)
        raise


def refuse_unknown_inputs(model: ModelEntry, names: Collection[str]) -> None:
    """Raise the problem `invalid-input` if any of the names is not a named input of the model."""
    for name in names:
        if name not in model.inputs:
            shown = name[:100]
            known = ", ".join(model.inputs) or "none"
            raise invalid_input(
                f"inputs.{shown}: {model.name} has no such input; its named inputs are: {known}",
                pointer="/inputs/" + shown.replace("~", "~0").replace("/", "~1"),
            )


def check_required_inputs(model: ModelEntry, names: Collection[str | None]) -> None:
    """Raise the problem `invalid-input` if `names` lacks a named input that the model requires."""
    for name in model.required_inputs:
        if name not in names:
            raise invalid_input(
                f"inputs.{name}: {model.name} needs this input; send it as a part of a form or in "
                'the member "inputs" of a JSON body; in /v2, as a tensor with this name',
                pointer=f"/inputs/{name}",
            )


def _read_input(model: ModelEntry, path: str, source: dict[str, Json]) -> SubmittedInput:
    """Read the JSON object of an input, which is at `path` in the body."""
    refuse_unknown(f"{path}.", source, {*_INPUTS, "media_type"})
    given = [name for name in _INPUTS if name in source]
    if len(given) != 1:
        raise malformed(f"{path}: expected exactly one of the members {', '.join(_INPUTS)}")
    announced = source.get("media_type")
    if announced is not None and not isinstance(announced, str):
        raise malformed(f"{path}.media_type: expected a string")
    if given[0] == "upload":
        return _read_upload(path, announced, source["upload"])
    if given[0] == "url":
        return read_url(model, path, announced, source["url"])
    data, default_type = _decode_input(path, given[0], source[given[0]])
    kind = media.essence(announced) if announced else default_type
    return _read_bytes(model, kind, data)


def _read_upload(path: str, announced: str | None, upload: Json) -> SubmittedInput:
    if not isinstance(upload, str):
        raise malformed(f"{path}.upload: expected a string")
    if len(upload) > _MAX_UPLOAD_ID_CHARACTERS:
        raise invalid_input(f"{path}.upload: expected an id from POST /v1/uploads")
    return SubmittedInput(media.essence(announced or ""), upload=upload)


def read_url(model: ModelEntry, path: str, announced: str | None, url: Json) -> SubmittedInput:
    """Return the input at a URL, which the worker gets, or in a `data:` URI."""
    if not isinstance(url, str):
        raise malformed(f"{path}.url: expected a string")
    media_type = media.essence(announced) if announced else None
    if url[:5].lower() == "data:":
        found, data = _decode_data_uri(f"{path}.url", url)
        return _read_bytes(model, media_type or found, data)
    _check_url_length(f"{path}.url", url)
    if media_type:
        check_accepted(model, media_type)
    return SubmittedInput("", url=PayloadUrl(url, media_type))


def _decode_data_uri(path: str, url: str) -> tuple[str | None, bytes]:
    """Return the media type, if any, and the content of a `data:` URI (RFC 2397)."""
    head, comma, content = url[5:].partition(",")
    if not comma:
        raise malformed(
            f"{path}: a data: URI needs a comma before its content, as in "
            "data:image/png;base64,iVBORw0…"
        )
    is_base64 = head.lower().replace(" ", "").endswith(";base64")
    try:
        data = unquote_to_bytes(content)
        data = base64.b64decode(data, validate=True) if is_base64 else data
    except ValueError:
        kind = "base64" if is_base64 else "text"
        raise malformed(f"{path}: the content of the data: URI is not valid {kind}") from None
    media_type = media.essence(unquote(head))
    if media_type and not media.is_media_type(media_type):
        raise malformed(f"{path}: the data: URI has no valid media type before its content")
    return media_type or None, data


def _with_webhook_url(envelope: dict[str, Json]) -> dict[str, Json]:
    """Return the options of a JSON body with the names that they have in a query."""
    webhook = envelope.pop("webhook", None)
    if webhook is None:
        return envelope
    is_object = isinstance(webhook, dict) and set(webhook) == {"url"}
    if not is_object or not isinstance(webhook["url"], str):
        raise malformed('webhook: expected {"url": …}')
    return {**envelope, "webhook_url": webhook["url"]}


def refuse_unknown(path: str, found: Mapping[str, Json], known: Collection[str]) -> None:
    """Raise the problem `malformed-request` for a member of the object at `path` not in `known`."""
    for name in found:
        if name not in known:
            text = f"unknown member {path}{name[:100]}; the members are {', '.join(sorted(known))}"
            if name == "webhook_url":
                text += '; in a JSON body, the webhook is {"webhook": {"url": …}}'
            raise malformed(text)


def _decode_input(path: str, member: str, value: Json) -> tuple[bytes, str | None]:
    """Return the content and the media type, if known, of an input in a JSON body."""
    try:
        if member == "json":
            return encode_json(value), media.JSON
        if not isinstance(value, str):
            raise malformed(f"{path}.{member}: expected a string")
        if member == "text":
            return value.encode(), media.TEXT
        return base64.b64decode(value, validate=True), None
    except (binascii.Error, ValueError):
        raise malformed(f"{path}.{member}: the value is not valid {member}") from None


def _read_bytes(model: ModelEntry, announced: str | None, data: bytes) -> SubmittedInput:
    check_size(model, len(data))
    return SubmittedInput(check_media_type(model, announced, data), data)


def _make_job(
    parts: RequestParts,
    model: ModelEntry,
    inputs: dict[str | None, SubmittedInput],
    options: Mapping[str, Json],
) -> NewJob:
    if model.inputs:
        check_required_inputs(model, inputs)
    parameters, deadline_seconds = parse_options(model, options)
    return NewJob(
        model,
        parts.tenant,
        parts.traceparent,
        inputs,
        parameters,
        deadline_seconds,
        webhook_url=_parse_webhook_url(options),
        priority=parse_priority(options),
        label=parse_label(options),
        is_pinned=parts.is_pinned,
        parent=parts.parent,
        held=parts.body.held,
        stream=parse_stream(options, default=parts.wants_stream or model.streams),
    )


MAX_PARAMETERS_BYTES: Final = 16 * 1024


def check_coding(content_encoding: str) -> None:
    """Raise the problem `unsupported-media-type` if the content is compressed."""
    if content_encoding.strip().lower() not in {"", "identity"}:
        raise HttpProblem(
            problems.UNSUPPORTED_MEDIA_TYPE,
            "the content must not be compressed; send it without a Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )


def check_size(model: ModelEntry, size_bytes: int, allowance_bytes: int = 0) -> None:
    """Raise `payload-too-large`; a body around the payload may have `allowance_bytes` more."""
    if size_bytes > model.max_input_bytes + allowance_bytes:
        raise HttpProblem(
            problems.PAYLOAD_TOO_LARGE,
            f"{model.name} accepts at most {model.max_input_bytes} bytes in a request, and at most "
            f"{model.max_upload_bytes} bytes in an upload (POST /v1/uploads)",
            limit_bytes=model.max_input_bytes,
        )


def check_upload_size(model: ModelEntry, size_bytes: int) -> None:
    """Raise the problem `payload-too-large` if an upload exceeds the model's limit."""
    if size_bytes > model.max_upload_bytes:
        raise HttpProblem(
            problems.PAYLOAD_TOO_LARGE,
            f"{model.name} accepts uploads of at most {model.max_upload_bytes} bytes",
            limit_bytes=model.max_upload_bytes,
        )


def check_media_type(
    model: ModelEntry, announced: str | None, data: bytes, *, is_whole: bool = True
) -> str:
    """Return the media type of a payload, or of its beginning, that the model accepts."""
    if not data:
        raise invalid_input("the input is empty; send at least one byte")
    media_type = announced or media.OCTET_STREAM
    if media_type in _UNSPECIFIC and media_type not in model.media_types:
        media_type = media.sniff(data) or only_media_type(model, announced) or media_type
    check_accepted(model, media_type)
    if media_type == media.OCTET_STREAM:
        return media_type
    is_readable = media_type != media.JSON or not is_whole or _is_json(data)
    if not media.agrees(media_type, data) or not is_readable:
        found = media.sniff(data)
        raise _unsupported(
            model,
            f"the content is {found}, but the media type of the request is {media_type}"
            if found and announced
            else f"the content is not {media_type}",
            found=found,
        )
    _check_pixels(model, media_type, data, is_whole=is_whole)
    return media_type


def only_media_type(model: ModelEntry, announced: str | None) -> str | None:
    """Return the only accepted type, but not JSON if a type is announced: its body has members."""
    accepted = model.media_types
    is_clear = len(accepted) == 1 and (announced is None or accepted[0] != media.JSON)
    return accepted[0] if is_clear else None


def check_accepted(model: ModelEntry, media_type: str) -> None:
    """Raise the problem `unsupported-media-type` if the model does not accept this media type."""
    if media_type not in model.media_types:
        reason = f"{model.name} does not accept the media type {media_type[:100]!r}"
        if media_type == _URLENCODED:
            reason += ", which curl sends if the request has no Content-Type"
        raise _unsupported(model, reason)


def _is_json(data: bytes) -> bool:
    try:
        parse_json(data)
    except ValueError:
        return False
    return True


def _unsupported(model: ModelEntry, what: str, found: str | None = None) -> HttpProblem:
    accepted = list(model.media_types)
    return HttpProblem(
        problems.UNSUPPORTED_MEDIA_TYPE,
        f"{what}; the accepted media types are {', '.join(accepted)}",
        headers={"Accept-Post": ", ".join(accepted)},
        accepted=accepted,
        **({"found": found} if found else {}),
    )


def _check_pixels(model: ModelEntry, media_type: str, data: bytes, *, is_whole: bool) -> None:
    if not model.max_pixels:
        return
    try:
        size = read_dimensions(media_type, data)
    except UnreadableImage as error:
        if not is_whole and isinstance(error, TruncatedImage):
            return  # the header follows later; the worker checks it before decoding
        raise invalid_input(str(error)) from None
    if size is not None and size[0] * size[1] > model.max_pixels:
        raise invalid_input(
            f"the picture has {size[0]} by {size[1]} pixels; {model.name} accepts at most "
            f"{model.max_pixels} pixels in total",
            limit_pixels=model.max_pixels,
        )


def parse_options(model: ModelEntry, options: Mapping[str, Json]) -> tuple[dict[str, Json], int]:
    """Return the model's parameters, and the number of seconds until the deadline."""
    parameters = _parse_parameters(options.get("parameters"))
    if model.parameters:
        try:
            check_parameters(model.parameters, parameters)
        except InvalidParameter as error:
            pointer = f"/parameters{error.pointer}"
            raise invalid_input(str(error), pointer=pointer) from None
    return parameters, _parse_deadline(model, options.get("deadline_seconds"))


def _parse_webhook_url(options: Mapping[str, Json]) -> str | None:
    """Return the URL of the webhook, whose address the SSRF guard checks later."""
    url = options.get("webhook_url")
    if url is not None and not isinstance(url, str):
        raise malformed("webhook.url: expected a string")
    _check_url_length("webhook.url", url or "")
    return url


def _check_url_length(option: str, url: str) -> None:
    # Check the length now, so that no long URL is stored. The SSRF guard later checks the rest.
    if len(url) > MAX_URL_CHARACTERS:
        raise invalid_input(f"{option}: the URL has more than {MAX_URL_CHARACTERS} characters")


def parse_priority(options: Mapping[str, Json]) -> Priority:
    """Return the requested priority; normal priority if none is requested."""
    given = options.get("priority")
    try:
        return Priority.NORMAL if given is None else Priority(given)
    except ValueError:
        known = " or ".join(Priority)
        raise malformed(f"priority: expected {known}") from None


def parse_stream(options: Mapping[str, Json], *, default: bool) -> bool:
    """Return whether the job writes its events to a log; the default if no option says it."""
    given = options.get("stream")
    if given is None:
        return default
    if isinstance(given, bool):
        return given
    if given not in {"true", "false"}:
        raise malformed("stream: expected true or false")
    return bool(given == "true")


MAX_LABEL_CHARACTERS: Final = 100

# Control characters, line separators, and characters that change the direction of other text.
LABEL_PATTERN: Final = (
    r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
    f"{{1,{MAX_LABEL_CHARACTERS}}}$"
)
"""The regular expression for a label, which is also part of the OpenAPI document."""

_LABEL: Final = re.compile(LABEL_PATTERN.removeprefix("^").removesuffix("$"))
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def has_surrogate(text: str) -> bool:
    """Return whether UTF-8 cannot encode a text that JSON can contain."""
    return _SURROGATE.search(text) is not None


def parse_label(options: Mapping[str, Json]) -> str | None:
    """Return the label that the caller gave the job; None if there is none."""
    label = options.get("label")
    if label is None:
        return None
    is_text = isinstance(label, str) and _LABEL.fullmatch(label) is not None
    if not is_text or has_surrogate(label):
        raise malformed(
            f"label: expected a text of 1 to {MAX_LABEL_CHARACTERS} characters without control "
            "characters or line breaks"
        )
    return str(label)


def _parse_parameters(given: Json) -> dict[str, Json]:
    if given is None:
        return {}
    try:
        value = parse_json(given) if isinstance(given, str) else given
        is_large = has_more_values(value, MAX_PARAMETERS_BYTES)
        size_bytes = MAX_PARAMETERS_BYTES + 1 if is_large else len(encode_json(value))
    except ValueError as error:
        raise malformed(f"parameters: {error}") from None
    if not isinstance(value, dict):
        raise malformed("parameters: expected a JSON object")
    if size_bytes > MAX_PARAMETERS_BYTES:
        raise malformed(f"parameters: expected at most {MAX_PARAMETERS_BYTES} bytes of JSON")
    return value


def _parse_deadline(model: ModelEntry, given: Json) -> int:
    if given is None:
        return model.deadline_seconds
    if isinstance(given, str) and given.isascii() and given.isdigit():
        given = int(given.lstrip("0")[:9] or "0")
    longest = model.max_deadline_seconds
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= longest:
        raise malformed(f"deadline_seconds: expected a whole number from 1 to {longest}")
    return given
