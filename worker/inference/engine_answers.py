"""Read the events of an engine's stream, and make the whole answer of their chunks.

The chunks and answers are those of OpenAI's API. The events are server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from worker.errors import InferenceFailed

Answer = dict[str, Any]

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024

_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")


class EventReader:
    """Splits a stream of server-sent events. Only the data of the events is used."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the data of the events that are complete with this piece of the stream."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise InferenceFailed(f"the engine sent a line of more than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", "replace")
            if text.startswith("data:"):
                self._data.append(text[5:].removeprefix(" "))
            elif not text and self._data:
                yield "\n".join(self._data)
                self._data = []


def assemble(operation: str, chunks: Sequence[Answer]) -> Answer:
    """Return the answer that the engine would have given without a stream."""
    if operation == "responses":
        for chunk in reversed(chunks):
            if chunk.get("type") in _ENDS and isinstance(chunk.get("response"), dict):
                return dict(chunk["response"])
        raise _ended_early()
    choices: dict[int, Answer] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for each in chunk.get("choices") or ():
            _add_choice(choices.setdefault(each.get("index", 0), {}), each)
    if not choices or not all(each.get("finish_reason") for each in choices.values()):
        raise _ended_early()
    first = {name: chunks[0].get(name) for name in ("id", "created", "model")}
    kind = "chat.completion" if operation == "chat.completions" else "text_completion"
    ordered = [{"index": index, **choices[index]} for index in sorted(choices)]
    return {**first, "object": kind, "choices": ordered, **({"usage": usage} if usage else {})}


def text_of(answer: Answer) -> str:
    """Return the text of a chat's answer, or of one chunk of it."""
    for choice in answer.get("choices") or ():
        return str((choice.get("message") or choice.get("delta") or {}).get("content") or "")
    return ""


def _ended_early() -> InferenceFailed:
    return InferenceFailed(
        "the engine ended the stream before the answer was complete; send the job again"
    )


def _add_choice(whole: Answer, part: Answer) -> None:
    for name, value in part.items():
        if name == "delta":
            message = whole.setdefault("message", {"role": "assistant", "content": None})
            _add_delta(message, value or {})
        elif name == "text":
            whole["text"] = whole.get("text", "") + (value or "")
        elif name == "logprobs" and isinstance(value, dict) and whole.get("logprobs"):
            for key, added in value.items():
                if isinstance(added, list):
                    whole["logprobs"][key] = [*(whole["logprobs"].get(key) or []), *added]
        elif name != "index" and (value is not None or name not in whole):
            whole[name] = value


def _add_delta(message: Answer, delta: Answer) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value or ():
                _add_call(calls, part)
        elif name == "role":
            message["role"] = value or message["role"]
        elif isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None or name not in message:
            message[name] = value


def _add_call(calls: list[Answer], part: Answer) -> None:
    index = part.get("index", len(calls))
    known = {each["index"]: each for each in calls}
    if index not in known:
        calls.append({**part, "index": index})
        return
    call = known[index]
    for name, value in part.items():
        if name == "function" and isinstance(value, dict):
            function = call.setdefault("function", {})
            for key, added in value.items():
                if isinstance(added, str):
                    function[key] = (function.get(key) or "") + added
        elif name != "index" and value:
            call[name] = value
