"""Chats and text completions: https://platform.openai.com/docs/api-reference/chat."""

from functools import partial
from typing import Any, Final

from contract.catalogue import ModelEntry
from gateway.openai.calls import ApiOperation, CallResult, Members, Shown, no_result, refused


def text_of(found: Any) -> str:
    """Return the text that a model has returned, also as `{"text": …}`."""
    text = found.get("text") if isinstance(found, dict) else found
    if not isinstance(text, str):
        raise no_result(
            'the model returned no text: it must return a text, or an object with "text"'
        )
    return text


def usage_of(found: Any) -> dict[str, int]:
    """Return the token counts that a model has returned beside its text; 0 for what is missing."""
    given = found.get("usage") if isinstance(found, dict) else None
    given = given if isinstance(given, dict) else {}
    found = [given.get(name) for name in ("prompt_tokens", "completion_tokens")]
    counts = [int(each) if isinstance(each, int | float) else 0 for each in found]
    return {
        "prompt_tokens": counts[0],
        "completion_tokens": counts[1],
        "total_tokens": sum(counts),
    }


class ChatShape:
    """The objects of a chat."""

    prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, job_id: str, model: str, created: int) -> None:
        self._id = self.prefix + job_id.replace("-", "")
        self._model = model
        self._created = created

    def whole(self, text: str, usage: dict[str, int]) -> dict[str, Any]:
        """Return the whole answer."""
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **self.full(text)}
        return {**self._frame(self.kind), "choices": [choice], "usage": usage}

    def part(
        self, text: str | None, finish_reason: str | None = None, *, is_first: bool = False
    ) -> dict[str, Any]:
        """Return a chunk with a part of the text."""
        choice = {"index": 0, "finish_reason": finish_reason, "logprobs": None}
        return self.chunk([choice | self.delta(text, is_first=is_first)])

    def chunk(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        """Return a chunk with these choices."""
        return {**self._frame(self.chunk_kind), "choices": choices, **more}

    def full(self, text: str) -> dict[str, Any]:
        """Return what a choice has of the whole text."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str | None, *, is_first: bool) -> dict[str, Any]:
        """Return what the choice of a chunk has of a part of the text."""
        role = {"role": "assistant"} if is_first else {}
        return {"delta": {**role, **({} if text is None else {"content": text})}}

    def delta_of(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return the choice of a whole answer as that of a chunk."""
        return {**{k: v for k, v in choice.items() if k != "message"}, "delta": choice["message"]}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


class TextShape(ChatShape):
    """The objects of a text completion, whose chunks have the same form as the whole."""

    prefix = "cmpl-"
    kind = "text_completion"
    chunk_kind = "text_completion"

    def full(self, text: str) -> dict[str, Any]:
        """Return what a choice has of the whole text."""
        return {"text": text}

    def delta(self, text: str | None, *, is_first: bool) -> dict[str, Any]:
        """Return what the choice of a chunk has of a part of the text."""
        return {"text": text or ""}

    def delta_of(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return the choice of a whole answer as that of a chunk."""
        return choice


def _check(member: str, _: ModelEntry, asked: Members) -> Members:
    if not isinstance(asked.get(member), str | list) or not asked[member]:
        raise refused(member, "it is missing or empty")
    return asked


def _show(shape: type[ChatShape], asked: Members, result: CallResult) -> Shown:
    """Return the text of a model as the object of the API, which passes unchanged."""
    found = result.json()
    if isinstance(found, dict) and "object" in found:
        return result
    made = shape(result.job_id, asked["model"], result.created)
    return made.whole(text_of(found), usage_of(found))


CHAT: Final = ApiOperation(
    "chat.completions", partial(_check, "messages"), partial(_show, ChatShape), has_metadata=True
)
COMPLETIONS: Final = ApiOperation(
    "completions", partial(_check, "prompt"), partial(_show, TextShape), has_metadata=True
)
"""The model gets the call's JSON. It returns a text, or the object of the API."""
