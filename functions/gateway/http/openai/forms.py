"""Read the forms (`multipart/form-data`) in which OpenAI clients send files."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final

from fastapi import Request

from contract.catalogue import ENVELOPE_BYTES, Catalogue
from contract.media import essence
from contract.messages import Json
from gateway import problems
from gateway.bodies import HeldBytes
from gateway.http.requests import body_of, caller_of, services_of
from gateway.json_text import parse_json
from gateway.openai.calls import refused
from gateway.problems import HttpProblem, malformed
from gateway.submission.forms import FormPart, read_form
from gateway.submission.parse import check_coding

MAX_PARTS: Final = 50
_FORM: Final = "multipart/form-data"
_NOT_TEXT: Final = frozenset({"n", "output_compression", "partial_images", "stream", "temperature"})


class Form:
    """The parts of a form, which are taken by name."""

    def __init__(self, parts: Sequence[FormPart]) -> None:
        self._parts = list(parts)

    def take_files(self, name: str) -> list[FormPart]:
        """Remove and return the files named `name` or `name[]`. Raises if there is none."""
        if not (found := self._take(name)) or not all(part.is_file for part in found):
            raise refused(name, "expected a file")
        return found

    def take_file(self, name: str) -> FormPart:
        """Remove and return the only file with this name. Raises if there are none or several."""
        found = self.take_files(name)
        if len(found) > 1:
            raise refused(name, "expected only one file")
        return found[0]

    def take_texts(self, name: str) -> list[str]:
        """Remove and return the texts named `name` or `name[]`."""
        return [_text(part) for part in self._take(name)]

    def take_text(self, name: str) -> str | None:
        """Remove and return the text with this name; None if there is none."""
        found = self.take_texts(name)
        if len(found) > 1:
            raise refused(name, "it is given more than once; give it only once")
        return found[0] if found else None

    def take_members(self, files: Collection[str]) -> dict[str, Any]:
        """Remove and return all parts as the members of a call, some of which are files.

        The other members are texts, with numbers and lists if the API has them.
        """
        members: dict[str, Any] = {each: self._take(each) for each in files}
        for name in self.names():
            is_list = any(part.name == f"{name}[]" for part in self._parts)
            texts = self.take_texts(name)
            if not is_list and len(texts) > 1:
                raise refused(name, "it is given more than once; give it only once")
            members[name] = texts if is_list else _read_value(name, texts[0])
        return members

    def names(self) -> list[str]:
        """Return the names of the parts that were not taken yet, without `[]`."""
        return list(dict.fromkeys(part.name.removesuffix("[]") for part in self._parts))

    def _take(self, name: str) -> list[FormPart]:
        found: list[FormPart] = []
        others: list[FormPart] = []
        for part in self._parts:
            (found if part.name.removesuffix("[]") == name else others).append(part)
        self._parts = others
        return found


async def read_body(request: Request, held: HeldBytes) -> Form:
    """Read the body of a request as a form. Raises HttpProblem if it is none or too large."""
    services, content_type = services_of(request), request.headers.get("content-type", "")
    if essence(content_type) != _FORM:
        raise malformed(f"the body must be a form: send it with the Content-Type {_FORM}")
    check_coding(request.headers.get("content-encoding", ""))
    body = body_of(request, held)
    body.limit(partial(_check_size, largest_form_bytes(services.catalogue)))
    read = partial(_read, content_type)
    return await services.bodies.parse(caller_of(request).tenant, await body.read(), read)


def largest_form_bytes(catalogue: Catalogue) -> int:
    """Return the largest size in bytes of a form that has the inputs of any model."""
    return max(model.max_all_inputs_bytes for model in catalogue.values()) + ENVELOPE_BYTES


def _check_size(limit_bytes: int, size_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise HttpProblem(
            problems.PAYLOAD_TOO_LARGE,
            f"the form has more than {limit_bytes} bytes, the most that any model here accepts",
        )


def _read(content_type: str, body: bytes) -> Form:
    try:
        return Form(read_form(content_type, body, MAX_PARTS))
    except ValueError as error:
        raise malformed(f"the body is not a form: {error}") from None


def _read_value(name: str, text: str) -> Json:
    """Return the value of a member that is text in a form, and a number or a boolean in JSON."""
    if name not in _NOT_TEXT:
        return text
    try:
        return parse_json(text)
    except ValueError:
        raise refused(name, "expected a number, true or false") from None


def _text(part: FormPart) -> str:
    try:
        text = None if part.is_file else part.data.decode()
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise refused(part.name, "expected text in UTF-8")
    return text
